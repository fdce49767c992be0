//! The GPU half of a program: plain data that every GPU driver reads the same way.

/// A kernel in the Metal Shading Language.
///
/// Arguments follow from the launch: span i is the `device` pointer `[[buffer(i)]]` (const unless the launch writes it),
/// the image of the constants is `constant Args&` in the buffer after the last span, and `threadgroup T*
/// [[threadgroup(0)]]` has the launch's scratch bytes.
#[derive(Debug)]
pub struct Gpu {
    /// Put together in this order they are one source file.
    pub texts: &'static [Text],
    /// Name of the `kernel` function.
    pub entry: &'static str,
    /// A value for each function constant that the texts declare.
    pub constants: &'static [FunctionConstant],
}

/// Kernel text and where it stands, so that what a compiler says leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Path from the workspace's root.
    pub file: &'static str,
    pub text: &'static str,
}

/// The value of `[[function_constant(index)]]`: variants of a kernel are made when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FunctionConstant {
    pub index: u32,
    pub value: Value,
}

/// A value with its type in the kernel language.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i32),
    Uint(u32),
    Float(f32),
}

impl Value {
    /// The value in memory: 4 bytes, little endian; of a bool only the first byte counts.
    #[must_use]
    pub const fn to_le_bytes(self) -> [u8; 4] {
        match self {
            Self::Bool(value) => [value as u8, 0, 0, 0],
            Self::Int(value) => value.to_le_bytes(),
            Self::Uint(value) => value.to_le_bytes(),
            Self::Float(value) => value.to_le_bytes(),
        }
    }

    /// The word for its type in the kernel language.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Float(_) => "float",
        }
    }
}

/// The [`Text`] of a file that stands beside the one that names it.
#[macro_export]
macro_rules! msl {
    ($name:literal) => {
        $crate::Text { file: concat!(file!(), "/../", $name), text: include_str!($name) }
    };
}
