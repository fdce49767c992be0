//! Every op's cases on the devices of this machine against the reference.
