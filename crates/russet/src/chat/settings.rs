//! Settings of sampling that `/set` changes.
use crate::args::SamplingArguments;
use std::str::FromStr;

/// What `/set` knows.
pub(super) const NAMES: [&str; 8] =
    ["temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed", "max-tokens", "stop"];

/// Takes a value back.
const OFF: &str = "off";

/// Why a setting stays as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("no setting {name:?}; there are {}", NAMES.join(" "))]
    Unknown { name: String },
    #[error("{name} is {expected}, not {value:?}")]
    Value { name: &'static str, expected: &'static str, value: String },
}

/// Changes one setting.
pub(super) fn set(sampling: &mut SamplingArguments, name: &str, value: &str) -> Result<(), Error> {
    let mut next = sampling.clone();
    let dashed = name.replace('_', "-");
    match dashed.as_str() {
        "temperature" => next.temperature = number("temperature", NOT_NEGATIVE, value)?,
        "top-k" => next.top_k = number("top-k", WHOLE, value)?,
        "top-p" => next.top_p = number("top-p", PROBABILITY, value)?,
        "min-p" => next.min_p = number("min-p", PROBABILITY, value)?,
        "repetition-penalty" => {
            next.repetition_penalty = number("repetition-penalty", POSITIVE, value)?;
        }
        "seed" => next.seed = unless_off(value, || number("seed", WHOLE, value))?,
        "max-tokens" => {
            next.max_tokens = unless_off(value, || number("max-tokens", COUNT, value))?;
        }
        "stop" => next.stop = unless_off(value, || stops(value))?.unwrap_or_default(),
        _ => return Err(Error::Unknown { name: name.to_owned() }),
    }
    check(&next)?;
    *sampling = next;
    Ok(())
}

const NOT_NEGATIVE: &str = "a number, 0 or more";
const POSITIVE: &str = "a number above 0";
const PROBABILITY: &str = "a number from 0 to 1";
const WHOLE: &str = "a whole number";
const COUNT: &str = "a whole number above 0";

/// Whether all values are in range, as they need not be on the command line and in a file.
pub(super) fn check(sampling: &SamplingArguments) -> Result<(), Error> {
    let s = sampling;
    let probability = 0.0..=1.0;
    let rows = [
        ("temperature", s.temperature, NOT_NEGATIVE, s.temperature >= 0.0),
        ("top-p", s.top_p, PROBABILITY, probability.contains(&s.top_p)),
        ("min-p", s.min_p, PROBABILITY, probability.contains(&s.min_p)),
        ("repetition-penalty", s.repetition_penalty, POSITIVE, s.repetition_penalty > 0.0),
    ];
    for (name, value, expected, good) in rows {
        if !good || !value.is_finite() {
            return Err(Error::Value { name, expected, value: value.to_string() });
        }
    }
    match s.max_tokens {
        Some(0) => Err(Error::Value { name: "max-tokens", expected: COUNT, value: "0".to_owned() }),
        _ => Ok(()),
    }
}

fn number<T: FromStr>(name: &'static str, expected: &'static str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::Value { name, expected, value: value.to_owned() })
}

fn unless_off<T>(value: &str, read: impl FnOnce() -> Result<T, Error>) -> Result<Option<T>, Error> {
    if value == OFF { Ok(None) } else { read().map(Some) }
}

/// One text as it stands, or JSON: a string with escapes, or a list of strings.
fn stops(value: &str) -> Result<Vec<String>, Error> {
    let expected = "a text, a JSON string or a JSON list of strings";
    let bad = |_| Error::Value { name: "stop", expected, value: value.to_owned() };
    match value.chars().next() {
        Some('"') => Ok(vec![serde_json::from_str(value).map_err(bad)?]),
        Some('[') => serde_json::from_str(value).map_err(bad),
        _ => Ok(vec![value.to_owned()]),
    }
}

/// One line a setting.
pub(super) fn show(sampling: &SamplingArguments) -> String {
    let s = sampling;
    let or_off = |value: Option<String>| value.unwrap_or_else(|| OFF.to_owned());
    let values = [
        s.temperature.to_string(),
        s.top_k.to_string(),
        s.top_p.to_string(),
        s.min_p.to_string(),
        s.repetition_penalty.to_string(),
        or_off(s.seed.map(|seed| seed.to_string())),
        or_off(s.max_tokens.map(|tokens| tokens.to_string())),
        or_off(Some(format!("{:?}", s.stop)).filter(|_| !s.stop.is_empty())),
    ];
    let lines: Vec<String> =
        NAMES.iter().zip(values).map(|(name, value)| format!("{name:<19}{value}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> SamplingArguments {
        SamplingArguments {
            max_tokens: None,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            seed: None,
            stop: Vec::new(),
        }
    }

    #[test]
    fn every_setting_can_be_set() {
        let mut changed = sampling();
        for (name, value) in [
            ("temperature", "0"),
            ("top-k", "7"),
            ("top_p", "0.5"),
            ("min-p", "0.25"),
            ("repetition_penalty", "1.5"),
            ("seed", "18446744073709551615"),
            ("max-tokens", "9"),
            ("stop", "[\"\\n\", \"b c\"]"),
        ] {
            set(&mut changed, name, value).unwrap();
        }
        let expected = SamplingArguments {
            max_tokens: Some(9),
            temperature: 0.0,
            top_k: 7,
            top_p: 0.5,
            min_p: 0.25,
            repetition_penalty: 1.5,
            seed: Some(u64::MAX),
            stop: vec!["\n".to_owned(), "b c".to_owned()],
        };
        assert_eq!(changed, expected);
        for name in ["seed", "max-tokens", "stop"] {
            set(&mut changed, name, OFF).unwrap();
        }
        assert_eq!((changed.seed, changed.max_tokens, changed.stop), (None, None, Vec::new()));
    }

    #[test]
    fn stop_is_a_text_or_json() {
        for (value, expected) in [("User:", "User:"), ("\"\\n\\n\"", "\n\n"), ("a b", "a b")] {
            assert_eq!(stops(value).unwrap(), [expected]);
        }
        assert!(stops("[1]").unwrap_err().to_string().contains("JSON"));
    }

    #[test]
    fn bad_values_change_nothing() {
        let mut unchanged = sampling();
        for (name, value, says) in [
            ("top-k", "-1", "a whole number"),
            ("top-p", "1.5", "from 0 to 1"),
            ("temperature", "nan", "0 or more"),
            ("temperature", "inf", "0 or more"),
            ("temperature", "off", "0 or more"),
            ("repetition-penalty", "0", "above 0"),
            ("max-tokens", "0", "above 0"),
            ("heat", "1", "there are temperature"),
        ] {
            let error = set(&mut unchanged, name, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(unchanged, sampling());
    }
}
