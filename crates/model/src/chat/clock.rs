//! The time that a template may print: given by the caller, never read here.

use std::fmt::Write as _;

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time of day on a date, without a zone: seconds since 1970-01-01 00:00:00 of that place's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(pub i64);

/// A date in the Gregorian calendar.
struct Date {
    year: i64,
    /// 0 to 11.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 to 6, from Sunday.
    weekday: usize,
}

/// As ISO 8601 has it, without a zone.
impl std::fmt::Display for LocalTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.format("%Y-%m-%dT%H:%M:%S").map_err(|_| std::fmt::Error)?)
    }
}

impl LocalTime {
    /// The time as C's `strftime` writes it in English. The error is the directive that is not known.
    pub(super) fn format(self, format: &str) -> Result<String, char> {
        let date = Date::of(self.0.div_euclid(86_400));
        let second = self.0.rem_euclid(86_400);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            // Writing to a String does not fail.
            let _written = match chars.next().unwrap_or('%') {
                'Y' => write!(out, "{}", date.year),
                'y' => write!(out, "{:02}", date.year.rem_euclid(100)),
                'm' => write!(out, "{:02}", date.month + 1),
                'B' => write!(out, "{}", MONTHS[date.month]),
                'b' | 'h' => write!(out, "{}", &MONTHS[date.month][..3]),
                'd' => write!(out, "{:02}", date.day),
                'e' => write!(out, "{:2}", date.day),
                'j' => write!(out, "{:03}", date.day_of_year),
                'A' => write!(out, "{}", DAYS[date.weekday]),
                'a' => write!(out, "{}", &DAYS[date.weekday][..3]),
                'H' => write!(out, "{hour:02}"),
                'I' => write!(out, "{:02}", (hour + 11) % 12 + 1),
                'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
                'M' => write!(out, "{minute:02}"),
                'S' => write!(out, "{:02}", second % 60),
                'F' => write!(out, "{}-{:02}-{:02}", date.year, date.month + 1, date.day),
                'T' => write!(out, "{hour:02}:{minute:02}:{:02}", second % 60),
                '%' => write!(out, "%"),
                unknown => return Err(unknown),
            };
        }
        Ok(out)
    }
}

impl Date {
    /// The date `days` after 1970-01-01, a Thursday.
    fn of(days: i64) -> Self {
        // Whole 400-year cycles are skipped, so that the loop over years is short for any number.
        const CYCLE: i64 = 146_097;
        let mut year = 1970 + days.div_euclid(CYCLE) * 400;
        let mut rest = days.rem_euclid(CYCLE);
        while rest >= year_days(year) {
            rest -= year_days(year);
            year += 1;
        }
        let day_of_year = rest + 1;
        let mut month = 0;
        while rest >= month_days(year, month) {
            rest -= month_days(year, month);
            month += 1;
        }
        let weekday = usize::try_from((days.rem_euclid(7) + 4) % 7).unwrap_or(0);
        Self { year, month, day: rest + 1, day_of_year, weekday }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn year_days(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: i64, month: usize) -> i64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}
