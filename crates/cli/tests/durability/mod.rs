//! What is left of a store after faults, crashes, power cuts, kills and damage: the real `silt` over testkit's file layer.
//!
//! Every test asks the same of what is left: the old state or the whole new one, nothing acknowledged lost, a clean
//! verification, and that the next command needs no hand. `docs/internals/durability.md` says which test shows what.
//!
//! Where to look next: `stage` for stores under the layer, `facts` for what is compared, `guest` for what a disk may
//! hold, `scenes` for the commands that are played, `generations` for drawn stories of snapshots, clones and seals.

mod damage;
mod every_byte;
mod facts;
mod generations;
mod guest;
mod kills;
mod poison;
mod power;
mod power_serve;
mod scenes;
mod serve_steps;
mod stage;
mod steps;
