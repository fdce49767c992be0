//! Tables for people: columns as wide as their widest cell.
use serde_json::Value;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    /// The titles first, unless there are none.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of titles.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), rows: vec![titles] }
    }

    /// Two columns without titles: names and what they stand for.
    pub(crate) fn facts() -> Self {
        Self { aligns: vec![Align::Left, Align::Left], rows: Vec::new() }
    }

    /// The fields of a JSON object; nested ones with a dot, those that are null left out.
    pub(crate) fn of_fields(object: &Value) -> Self {
        let mut table = Self::facts();
        table.add_fields("", object);
        table
    }

    fn add_fields(&mut self, prefix: &str, object: &Value) {
        for (name, value) in object.as_object().into_iter().flatten() {
            let full_name = format!("{prefix}{name}");
            match value {
                Value::Null => {}
                Value::Object(_) => self.add_fields(&format!("{full_name}."), value),
                _ => self.fact(&full_name, shown(name, value)),
            }
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn fact(&mut self, name: &str, value: impl fmt::Display) {
        self.row([name.to_owned(), value.to_string()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.aligns.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(&widths).zip(&self.aligns) {
                let padding = " ".repeat(width - cell.chars().count());
                line += &match align {
                    Align::Left => format!("{cell}{padding}  "),
                    Align::Right => format!("{padding}{cell}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A field's value for people; the unit comes from its name.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Bool(yes) => (if *yes { "yes" } else { "no" }).to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => {
            items.iter().map(|item| shown(name, item)).collect::<Vec<_>>().join(" ")
        }
        Value::Number(number) if name.contains("bytes") => {
            let rate = if name.ends_with("_per_second") { "/s" } else { "" };
            number.as_u64().map_or_else(|| number.to_string(), |count| bytes(count) + rate)
        }
        Value::Number(number) if name.ends_with("_per_second") => {
            number.as_u64().map_or_else(|| number.to_string(), |ops| count(ops) + "/s")
        }
        _ => value.to_string(),
    }
}

/// Bytes with three significant digits and a decimal unit.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, ["B", "kB", "MB", "GB", "TB"])
}

/// A count with three significant digits.
pub(crate) fn count(count: u64) -> String {
    scaled(count, ["", "thousand", "million", "billion", "trillion"])
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn scaled(count: u64, units: [&str; 5]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&[("name", Align::Left), ("bytes", Align::Right)]);
        table.row(["größe".to_owned(), "7".to_owned()]);
        table.row(["x".to_owned(), "1234567".to_owned()]);
        assert_eq!(table.to_string(), "name     bytes\ngröße        7\nx      1234567\n");
    }

    #[test]
    fn fields_are_named_by_their_path_and_shown_in_their_unit() {
        let object = serde_json::json!({
            "memory": { "free_bytes": 2_000_000, "limit": null },
            "read_bytes_per_second": 9_510_000_000_u64,
            "features": ["fma", "avx2"],
        });
        let lines = "memory.free_bytes      2.00 MB\nread_bytes_per_second  9.51 GB/s\nfeatures               fma avx2\n";
        assert_eq!(Table::of_fields(&object).to_string(), lines);
    }

    #[test]
    fn three_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (98_362_432, "98.4 MB"),
            (999_600, "1.00 MB"),
            (253_113_024, "253 MB"),
            (24_000_000_000, "24.0 GB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(count(134_515_008), "135 million");
        assert_eq!(count(64), "64");
    }
}
