//! The integration tests of the test kit: one binary, one module per part.

mod fault;
