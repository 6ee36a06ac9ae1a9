//! Other names.

use crate::engine::Engine;
use silt_types::{DiskName, Error, Result};

impl Engine {
    /// Gives an image, a volume or a snapshot another name, in one transaction; nothing else changes, and a served volume is
    /// served on. A snapshot stays with its volume: `Invalid` if `to` says otherwise. `AlreadyExists` if the name is taken.
    pub fn rename(&self, from: &DiskName, to: &DiskName) -> Result<()> {
        let named = self.find(from)?;
        let name = match (&from.snapshot, &to.snapshot) {
            (None, None) => &to.name,
            (Some(_), Some(snapshot)) if from.name == to.name => snapshot,
            _ => {
                let message =
                    format!("{from} cannot become {to}: a snapshot stays with its volume");
                return Err(Error::invalid(message));
            }
        };
        self.store.change("cannot rename", |change| change.rename(&named, name))
    }
}
