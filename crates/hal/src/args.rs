//! Kernel arguments, declared once.

/// Declares a `#[repr(C)]` struct of 4-byte numbers and the text that mirrors it, so that the two cannot drift apart.
#[macro_export]
macro_rules! args {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

        impl $name {
            /// The declaration in the kernel language.
            pub const MSL: $crate::Text = $crate::Text {
                file: concat!(file!(), " (", stringify!($name), ")"),
                text: concat!(
                    "struct ", stringify!($name), " {", $(" ", $crate::args!(@c $type), " ", stringify!($field), ";",)+ " };\n"
                ),
            };

            /// Appends the little-endian image that kernels read.
            pub fn write_to(&self, bytes: &mut Vec<u8>) {
                $(bytes.extend_from_slice(&self.$field.to_le_bytes());)+
            }

            /// Reads the image back. Panics if `bytes` is too short: the launch was recorded with other arguments.
            #[must_use]
            pub fn read_from(bytes: &[u8]) -> Self {
                let mut words = bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
                Self { $($field: $type::from_le_bytes(words.next().expect("arguments are complete")),)+ }
            }
        }
    };
    (@c u32) => { "uint" };
    (@c i32) => { "int" };
    (@c f32) => { "float" };
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro declares public structs")]
mod tests {
    args! {
        /// For the test.
        pub struct Shape {
            pub rows: u32,
            pub epsilon: f32,
        }
    }

    #[test]
    fn one_declaration_gives_both_sides() {
        assert_eq!(Shape::MSL.text, "struct Shape { uint rows; float epsilon; };\n");
        let mut bytes = Vec::new();
        Shape { rows: 258, epsilon: 1.0 }.write_to(&mut bytes);
        assert_eq!(bytes, [2, 1, 0, 0, 0, 0, 0x80, 0x3f]);
        assert_eq!(Shape::read_from(&bytes), Shape { rows: 258, epsilon: 1.0 });
    }
}
