//! Which packs go, and which are first emptied of what is needed: decided from numbers alone.
//!
//! Rewriting costs what is needed of a pack and gives what is not, so the emptiest go first, until what is left unneeded is a
//! small part of the whole.

/// What is left unneeded after a collection: a twentieth of what is needed, at most.
const WASTE_DIVISOR: u64 = 20;
/// Packs shorter than this, and of fewer chunks, are put together once there are many.
const SMALL_PACK_BYTES: u64 = 4 << 20;
const SMALL_PACK_CHUNKS: u64 = 1 << 10;
/// So many may stay small, as they come from small changes.
const SMALL_PACKS_MAX: usize = 16;

/// A pack, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackUse {
    pub(super) number: i64,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Chunks of it in the index.
    pub(super) chunks: u64,
    /// Bytes that a pack of just what is needed would have.
    pub(super) needed: u64,
    /// A collection was at it already.
    pub(super) is_condemned: bool,
}

/// What becomes of packs, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nothing of them is needed.
    pub(super) remove: Vec<i64>,
    /// What is needed of them is moved, then they go.
    pub(super) rewrite: Vec<i64>,
    /// Bytes that the latter is.
    pub(super) bytes_rewritten: u64,
}

impl Plan {
    /// Decides. At most `rewrite_max` bytes are moved, but for what an earlier collection left condemned.
    pub(super) fn new(packs: &[PackUse], rewrite_max: u64) -> Plan {
        let mut plan = Plan::default();
        let (dead, mut rest): (Vec<PackUse>, Vec<PackUse>) =
            packs.iter().partition(|pack| pack.needed == 0);
        plan.remove = dead.iter().map(|pack| pack.number).collect();
        let needed: u64 = rest.iter().map(|pack| pack.needed).sum();
        let mut waste: u64 = rest.iter().map(|pack| pack.waste()).sum();
        rest.sort_by(|a, b| b.emptiness().total_cmp(&a.emptiness()));
        let mut kept = Vec::new();
        for pack in rest {
            let worth_it = waste > needed / WASTE_DIVISOR && pack.waste() > 0;
            let fits = plan.bytes_rewritten + pack.needed <= rewrite_max;
            if pack.is_condemned || (worth_it && fits) {
                plan.rewrite(&pack);
                waste -= pack.waste();
            } else {
                kept.push(pack);
            }
        }
        let small: Vec<_> = kept.iter().filter(|pack| pack.is_small()).collect();
        let bytes: u64 = small.iter().map(|pack| pack.needed).sum();
        if small.len() > SMALL_PACKS_MAX && plan.bytes_rewritten + bytes <= rewrite_max {
            small.into_iter().for_each(|pack| plan.rewrite(pack));
        }
        plan
    }

    fn rewrite(&mut self, pack: &PackUse) {
        self.rewrite.push(pack.number);
        self.bytes_rewritten += pack.needed;
    }
}

impl PackUse {
    fn waste(&self) -> u64 {
        self.size.saturating_sub(self.needed)
    }

    fn is_small(&self) -> bool {
        self.size < SMALL_PACK_BYTES && self.chunks < SMALL_PACK_CHUNKS
    }

    fn emptiness(&self) -> f64 {
        self.waste() as f64 / self.needed as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: i64, size: u64, needed: u64) -> PackUse {
        PackUse { number, size: size << 20, chunks: 5, needed: needed << 20, is_condemned: false }
    }

    #[test]
    fn what_nobody_needs_goes_and_the_emptiest_are_rewritten_until_little_is_wasted() {
        let packs =
            [pack(1, 64, 0), pack(2, 64, 63), pack(3, 64, 10), pack(4, 64, 40), pack(5, 64, 64)];
        let plan = Plan::new(&packs, u64::MAX);
        assert_eq!((plan.remove, plan.rewrite), (vec![1], vec![3, 4]));
        assert_eq!(plan.bytes_rewritten, 50 << 20);
    }

    #[test]
    fn a_little_waste_is_left_and_a_limit_is_kept() {
        assert_eq!(Plan::new(&[pack(1, 64, 62), pack(2, 64, 64)], u64::MAX), Plan::default());
        let packs = [pack(1, 64, 30), pack(2, 64, 40), pack(3, 64, 50)];
        let plan = Plan::new(&packs, 60 << 20);
        assert_eq!(plan.rewrite, [1]);
        assert_eq!(Plan::new(&packs, 0), Plan::default());
    }

    #[test]
    fn what_was_condemned_goes_on_whatever_the_limit() {
        let condemned = PackUse { is_condemned: true, ..pack(1, 64, 64) };
        assert_eq!(Plan::new(&[condemned], 0).rewrite, [1]);
    }

    #[test]
    fn many_small_packs_become_one() {
        let few: Vec<_> = (1..=16).map(|number| pack(number, 1, 1)).collect();
        assert_eq!(Plan::new(&few, u64::MAX), Plan::default());
        let many: Vec<_> = (1..=17).map(|number| pack(number, 1, 1)).collect();
        assert_eq!(Plan::new(&many, u64::MAX).rewrite.len(), 17);
        // Of tiny chunks a pack is full before it is long.
        let full = |pack: &PackUse| PackUse { chunks: 1 << 14, ..*pack };
        assert_eq!(
            Plan::new(&many.iter().map(full).collect::<Vec<_>>(), u64::MAX),
            Plan::default()
        );
    }
}
