//! Reference of `rope`: f64 angles.
use crate::Pairing;
use crate::reference::rounded;

/// Rotates one head in place.
pub fn rope(x: &mut [f32], position: u32, frequencies: &[f32], pairing: Pairing, amplitude: f32) {
    let pairs = frequencies.len();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (first, second) = match pairing {
            Pairing::Adjacent => (2 * i, 2 * i + 1),
            Pairing::Halves => (i, i + pairs),
        };
        let (sin, cos) = (f64::from(position) * f64::from(*frequency)).sin_cos();
        let (x0, x1) = (f64::from(x[first]), f64::from(x[second]));
        x[first] = rounded(f64::from(amplitude) * (x0 * cos - x1 * sin));
        x[second] = rounded(f64::from(amplitude) * (x0 * sin + x1 * cos));
    }
}
