//! Figures as people read them.

use std::fmt;

/// Milliseconds, shown as seconds.
pub(super) struct Seconds(pub(super) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 1_000, self.0 % 1_000 / 100)
    }
}

/// Bytes, shown in the binary unit that fits.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 >> shift > 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Thousandths, shown as a number.
pub(super) struct Milli(pub(super) u32);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&(f64::from(self.0) / 1_000.0), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(Seconds(12_345).to_string(), "12.3 s");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1_536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(700 << 20).to_string(), "700.0 MiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777215.9 TiB");
        assert_eq!(format!("{:.2}", Milli(1_234)), "1.23");
    }
}
