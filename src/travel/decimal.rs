//! Compares numbers as PostgreSQL writes them: integers, decimals and floating-point numbers, exactly where they are exact.

use std::cmp::Ordering;

/// Compares two numbers; `None` if one of them is no number. As in PostgreSQL, NaN is greater than any other number.
pub fn compare(left: &str, right: &str) -> Option<Ordering> {
    if let (Some(left), Some(right)) = (Decimal::parse(left), Decimal::parse(right)) {
        return Some(left.compare(&right));
    }
    let float = |text: &str| text.parse::<f64>().ok();
    let (left, right) = (float(left)?, float(right)?);
    Some(left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan())))
}

/// A number without an exponent: digits before and behind the point, without zeros that mean nothing.
#[derive(PartialEq, Eq)]
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(whole) || !is_plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal { is_negative: is_negative && !is_zero, whole, fraction })
    }

    fn compare(&self, other: &Decimal<'_>) -> Ordering {
        match (self.is_negative, other.is_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.magnitude().cmp(&other.magnitude()),
            (true, true) => other.magnitude().cmp(&self.magnitude()),
        }
    }

    /// Digits of equal number sort as text, and so do fractions.
    fn magnitude(&self) -> (usize, &str, &str) {
        (self.whole.len(), self.whole, self.fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        for (left, right, expected) in [
            ("9", "10", Ordering::Less),
            ("-9", "-10", Ordering::Greater),
            ("1.50", "1.5", Ordering::Equal),
            ("0.1", "0.09", Ordering::Greater),
            ("-0", "0.000", Ordering::Equal),
            ("123456789012345678901234567890.1", "123456789012345678901234567890.2", Ordering::Less),
            ("1e+20", "100000000000000000000", Ordering::Equal),
            ("NaN", "Infinity", Ordering::Greater),
            ("NaN", "NaN", Ordering::Equal),
            ("-Infinity", "-5", Ordering::Less),
        ] {
            assert_eq!(compare(left, right), Some(expected), "{left} {right}");
        }
        assert_eq!((compare("x", "1"), compare("", "0"), compare("1", ".")), (None, None, None));
    }
}
