//! Numbers of float32 as text: the fewest digits that read back as the same float32.
//!
//! They look as Python's own `repr` has a float of these digits, which is how JSON has them.

use std::fmt::Write as _;

/// Below this power of ten, and from the other on, Python writes an exponent.
const LEAST_PLAIN: i32 = -4;
const LEAST_LARGE: i32 = 16;

/// A number that lies between two shortest decimals is a multiple of one over this.
const HALVES: f64 = 8192.0;
const EXACT_DIGITS: usize = 40;

/// Writes a finite `value` behind `text`.
///
/// # Panics
/// Never: a number is formatted as Rust formats all of them.
pub fn write_shortest(value: f32, text: &mut String) {
    let written = format!("{value:e}");
    let (mantissa, power) = written.split_once('e').unwrap_or((&written, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(|each| *each != '.').collect();
    let digits = even_of_two(value, digits, power);
    text.push_str(sign);
    if (LEAST_PLAIN..LEAST_LARGE).contains(&power) {
        write_plain(&digits, power, text);
    } else {
        write_with_power(&digits, power, text);
    }
}

/// `digits`, or those on the other side of `value` where both are equally near and these are odd.
///
/// Numpy and polars take the even ones, where Rust takes the larger.
fn even_of_two(value: f32, digits: String, power: i32) -> String {
    // What lies between two decimals of at most nine digits has few binary ones.
    if (f64::from(value) * HALVES).fract() != 0.0 || !is_odd(&digits) {
        return digits;
    }
    let count = digits.len();
    let exact = format!("{:.*e}", count + EXACT_DIGITS, value.abs());
    let exact: String =
        exact.chars().take_while(|each| *each != 'e').filter(|each| *each != '.').collect();
    let (below, rest) = exact.split_at(count);
    let is_between = rest.starts_with('5') && rest[1..].bytes().all(|each| each == b'0');
    let mut other = String::new();
    write_with_power(below, power, &mut other);
    let reads_back = other.parse::<f32>().is_ok_and(|read| read == value.abs());
    if is_between && reads_back && !is_odd(below) { below.to_owned() } else { digits }
}

fn is_odd(digits: &str) -> bool {
    digits.bytes().last().is_some_and(|each| each % 2 == 1)
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
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
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
    fn the_same_number_is_read_back() {
        for bits in (0..u32::MAX).step_by(9_973) {
            let value = f32::from_bits(bits);
            if value.is_finite() {
                assert_eq!(shortest(value).parse::<f32>().map(f32::to_bits), Ok(bits));
            }
        }
    }
}
