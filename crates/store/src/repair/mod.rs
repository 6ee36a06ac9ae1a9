//! Repair: what is damaged is made again from what a store says twice.
//!
//! | lost | made again from |
//! |---|---|
//! | `store`, `commit`, folders, names of packs | what the files say of themselves (`layout`) |
//! | index | the footers of packs; for a pack without one, the rows that are left (`rebuild`) |
//! | catalog | the rows that are left (`salvage`), root records, headers of volumes; which of them count, the engine knows |
//! | a footer | the rows of the index (`heal`) |
//! | a chunk | another place that has it; the engine looks for one |
//!
//! What is replaced goes to quarantine, never away. Every step can be interrupted: the next repair goes on.

mod heal;
mod layout;
mod rebuild;
mod salvage;

pub use heal::Healed;
pub use layout::mend_layout;
pub use rebuild::{Rebuild, Salvaged};
