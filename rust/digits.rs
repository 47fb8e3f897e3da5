//! Numbers of float32 as text: the fewest digits that read back as the same float32.
//!
//! They look as Python's own `repr` has a float of these digits, which is how JSON has them. Of two
//! decimals that are equally near it is the even one, as of numpy and polars.

use std::fmt::Write as _;

/// Below this power of ten, and from the other on, Python writes an exponent.
const LEAST_PLAIN: i32 = -4;
const LEAST_LARGE: i32 = 16;

/// Sizes between which `ryu` writes numbers as Python does.
const LEAST_ALIKE: f32 = 1e-4;
const LEAST_OTHER: f32 = 1e12;

/// Writes a finite `value` behind `text`.
///
/// # Panics
/// Never.
pub fn write_shortest(value: f32, text: &mut String) {
    let mut buffer = ryu::Buffer::new();
    let written = buffer.format_finite(value);
    if value == 0.0 || (LEAST_ALIKE..LEAST_OTHER).contains(&value.abs()) {
        text.push_str(written);
        return;
    }
    let (sign, unsigned) = written.strip_prefix('-').map_or(("", written), |rest| ("-", rest));
    text.push_str(sign);
    let (digits, power) = digits_and_power(unsigned);
    if (LEAST_PLAIN..LEAST_LARGE).contains(&power) {
        write_plain(&digits, power, text);
    } else {
        write_with_power(&digits, power, text);
    }
}

/// The digits of a number above 0 without zeros around them, and the power of ten of the first.
fn digits_and_power(written: &str) -> (String, i32) {
    let (mantissa, power) = written.split_once('e').unwrap_or((written, "0"));
    let point = mantissa.find('.').unwrap_or(mantissa.len());
    let digits: String = mantissa.chars().filter(|each| *each != '.').collect();
    let trimmed = digits.trim_start_matches('0');
    let zeros = digits.len() - trimmed.len();
    let power = power.parse().unwrap_or(0) + point as i32 - zeros as i32 - 1;
    (trimmed.trim_end_matches('0').to_owned(), power)
}

/// `digits` with the point behind the first of them moved by `power`.
fn write_plain(digits: &str, power: i32, text: &mut String) {
    let whole = usize::try_from(power + 1).unwrap_or(0);
    if whole == 0 {
        let zeros = usize::try_from(-1 - power).unwrap_or(0);
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', zeros));
        text.push_str(digits);
    } else if digits.len() <= whole {
        text.push_str(digits);
        text.extend(std::iter::repeat_n('0', whole - digits.len()));
        text.push_str(".0");
    } else {
        let (before, after) = digits.split_at(whole);
        text.push_str(before);
        text.push('.');
        text.push_str(after);
    }
}

fn write_with_power(digits: &str, power: i32, text: &mut String) {
    let (first, rest) = digits.split_at(1);
    text.push_str(first);
    if !rest.is_empty() {
        text.push('.');
        text.push_str(rest);
    }
    let sign = if power < 0 { '-' } else { '+' };
    // Writing to a String never fails.
    let _ = write!(text, "e{sign}{:02}", power.abs());
}

#[cfg(test)]
mod tests {
    use super::write_shortest;

    fn shortest(value: f32) -> String {
        let mut text = String::new();
        write_shortest(value, &mut text);
        text
    }

    #[test]
    fn numbers_look_as_python_has_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-0.1, "-0.1"),
            (123_456.0, "123456.0"),
            (0.0001, "0.0001"),
            (-0.000_099_999_99, "-9.999999e-05"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e12, "1000000000000.0"),
            (1e15, "1000000000000000.0"),
            (1.234_568e15, "1234568000000000.0"),
            (1e16, "1e+16"),
            (3.402_823_5e38, "3.4028235e+38"),
            (1e-45, "1e-45"),
            // Between two decimals, the even one.
            (1.0 + 1.0 / 256.0, "1.0039062"),
            (203_143.62, "203143.62"),
            (1_762_400.2, "1762400.2"),
        ] {
            assert_eq!(shortest(value), text);
        }
    }

    #[test]
    fn no_decimal_is_shorter_or_nearer_and_the_same_number_is_read_back() {
        for bits in (0..u32::MAX).step_by(9_973) {
            let value = f32::from_bits(bits);
            if !value.is_finite() {
                continue;
            }
            let text = shortest(value);
            assert_eq!(text.parse::<f32>().map(f32::to_bits), Ok(bits));
            // Rust's own digits are the same but where two decimals are equally near.
            let (ours, others) = (scientific(&text), format!("{value:e}"));
            if ours != others {
                let exact = f64::from(value);
                let apart = |decimal: &str| (decimal.parse::<f64>().unwrap() - exact).abs();
                assert_eq!(ours.len(), others.len());
                assert!((apart(&ours) - apart(&others)).abs() < 1e-9 * exact.abs());
                assert!(last_digit(&ours).is_multiple_of(2), "{ours} beside {others}");
            }
        }
    }

    fn scientific(text: &str) -> String {
        format!("{:e}", text.parse::<f64>().unwrap())
    }

    fn last_digit(text: &str) -> u8 {
        text.split('e').next().unwrap().bytes().last().unwrap() - b'0'
    }
}
