//! Kubernetes quantities: `512Mi`, `1.5G`, `128974848`, `1e9`, `100m`.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource/quantity.go`.

/// The value in whole units, rounded up as `Quantity.Value()` does. `None` for what is no quantity,
/// is negative, or does not fit.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // More digits behind the point than matter would only overflow.
    let fraction = fraction.trim_end_matches('0');
    let mut scaled: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        scaled = scaled.checked_mul(10)?.checked_add((digit - b'0').into())?;
    }
    let (multiplier, exponent) = scale(suffix)?;
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let scaled = scaled.checked_mul(multiplier)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    let value = if scaled == 0 {
        0
    } else if exponent >= 0 {
        scaled.checked_mul(power?)?
    } else {
        // Divided by more than there is: something above nothing.
        power.map_or(1, |power| scaled.div_ceil(power))
    };
    u64::try_from(value).ok()
}

/// What a suffix multiplies by: a binary factor, and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every form the API accepts has its exact value; halves round up.
    #[test]
    fn quantities() {
        for (text, value) in [
            ("0", 0),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("123Mi", 128_974_848),
            ("1.5Gi", 1_610_612_736),
            ("0.1Gi", 107_374_183),
            (".5k", 500),
            ("5.", 5),
            ("+1", 1),
            ("100m", 1),
            ("1500m", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("1E3", 1000),
            ("15Ei", 15 << 60),
            ("1n", 1),
            ("0n", 0),
            ("1e-40", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(value), "{text:?}");
        }
    }

    /// What is no quantity is unknown, not 0.
    #[test]
    fn nonsense() {
        for text in [
            "",
            ".",
            "-1",
            "Mi",
            "1 Mi",
            "1mi",
            "1KiB",
            "1..2",
            "1.2.3",
            "1e",
            "0x10",
            "16Ei",
            "18446744073709551616",
            "1e999",
            "٣",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        /// Whole bytes are read back whatever they are, and no text panics.
        #[test]
        fn any_number_and_any_text(bytes in any::<u64>(), text in ".{0,40}") {
            prop_assert_eq!(parse(&bytes.to_string()), Some(bytes));
            let _ = parse(&text);
        }
    }
}
