//! The device layer: one contract, several drivers.
