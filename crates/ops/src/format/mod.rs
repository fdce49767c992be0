//! Storage formats of weights: how numbers are laid out in blocks of bytes.
