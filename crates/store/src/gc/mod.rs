//! Collection: what no root reaches goes, beside builds, clones, snapshots and servers, and whatever step it is killed at.
//!
//! In this order, each step explained with why nothing needed is lost in `docs/internals/gc.md`:
//!
//! 1. packs are listed, then leases, then roots; what the roots reach is marked;
//! 2. what is needed of packs that are mostly empty is moved to new ones;
//! 3. those packs, and the ones of which nothing is needed, are condemned;
//! 4. work that began before is waited for;
//! 5. what roots reach now is marked again, and moved out of condemned packs;
//! 6. condemned packs go: from the index, from the disk, and last the row that says so.
//!
//! Knows nothing of what maps and trees are: a [`RootWalker`] does. `roots`, `marks`, `plan` and `mover` are the parts; `freed`
//! only tells what would go.

mod freed;
mod marks;
mod mover;
mod plan;
mod roots;

pub use freed::{Freed, PackContent};
pub use marks::Marks;
pub use roots::Holder;

use crate::{
    catalog::{self, Listing, Root},
    index::{self, PackRow, PackState},
    lease::{self, HeldLease, Lease, WorkLock},
    pack::read_footer,
    space,
    store::{Shared, Store},
};
use mover::Moved;
pub(crate) use mover::Mover;
use plan::{PackUse, Plan};
use roots::roots;
use silt_format::{FileHeader, PackEntry, PackFooter, RootRecord};
use silt_types::{ChunkId, Context as _, Error, ErrorKind, LeaseId, Progress, Result};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How often work that is waited for is looked at.
const LEASE_PAUSE: Duration = Duration::from_millis(20);
/// What moving leaves of the free space, for those who need some meanwhile.
const FREE_BYTES_LEFT_DIVISOR: u64 = 8;
/// Damaged names that an error tells of; the rest is counted.
const UNREADABLE_TOLD_MAX: usize = 8;

/// Who knows what roots reach, and what packs say of them.
pub trait RootWalker: Sync {
    /// Marks everything that a root needs. From many threads.
    fn walk(&self, root: &Root, marks: &Marks) -> Result<()>;

    /// What to say in place of a root record whose pack goes, if that still matters. `listing` is not older than the pack.
    fn carry(&self, record: &RootRecord, listing: &Listing) -> Result<Option<RootRecord>>;
}

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct CollectRequest {
    /// Whether it is only told what would be done.
    pub dry_run: bool,
    /// The most bytes to move out of packs that are mostly empty.
    pub rewrite_bytes_max: u64,
    /// How long to wait for others: for their collection or verification to end, then for work that may need what goes. What is
    /// still needed then is left to the next collection.
    pub wait: Duration,
}

impl Default for CollectRequest {
    fn default() -> Self {
        let wait = Duration::from_secs(60);
        CollectRequest { dry_run: false, rewrite_bytes_max: u64::MAX, wait }
    }
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks in the index before.
    pub chunks: u64,
    /// Of those, needed.
    pub chunks_needed: u64,
    /// Chunks that went.
    pub chunks_removed: u64,
    /// Chunks that were moved, their bytes as stored.
    pub chunks_moved: u64,
    /// Bytes of those as stored.
    pub bytes_moved: u64,
    /// Packs before.
    pub packs: u64,
    /// Packs that went, whether or not something of them was moved before.
    pub packs_removed: u64,
    /// Bytes of packs before.
    pub bytes_packs: u64,
    /// Bytes of packs that went.
    pub bytes_removed: u64,
    /// Bytes of packs that were written.
    pub bytes_written: u64,
    /// Packs that are left to the next collection, since work under way may need them.
    pub packs_waiting: u64,
    /// Who does that work.
    pub waiting_for: Vec<String>,
    /// Packs that are left as they are since they are damaged.
    pub damaged: Vec<String>,
    /// How often content is needed that is not there.
    pub missing: u64,
    /// More is worth moving than there is free space for, now.
    pub is_short_of_space: bool,
}

impl Store {
    /// Removes what no root reaches. Other work goes on beside it; two collections take turns.
    ///
    /// `Corrupt`, naming it and before anything is removed, if a root cannot be read whole; `Busy`, naming who, if another
    /// collection or a verification does not end in time. Costs a pass over the index, every node of every map and tree once,
    /// and what is moved. Memory: 8 bytes and a bit for each chunk, and what [`RootWalker`] takes.
    pub fn collect(
        &self,
        request: &CollectRequest,
        walker: &dyn RootWalker,
        progress: &dyn Progress,
    ) -> Result<Collected> {
        let _turn = WorkLock::alone(self.paths(), Instant::now() + request.wait)?;
        let lease = Lease::take(self.paths())?;
        if !request.dry_run {
            self.shared().remove_leftovers(lease.id())?;
        }
        let mut collection = Collection::begin(self, walker, progress, lease)?;
        collection.mark()?;
        let plan = collection.plan(request.rewrite_bytes_max)?;
        if request.dry_run {
            return Ok(collection.would_do(&plan));
        }
        collection.rewrite(&plan)?;
        collection.condemn(&plan)?;
        if collection.wait(Instant::now() + request.wait)? {
            collection.mark_again()?;
            collection.rescue()?;
            collection.remove()?;
        }
        self.shared().database.give_back()?;
        Ok(collection.done)
    }
}

/// A collection under way.
struct Collection<'a> {
    store: &'a Store,
    shared: &'a Shared,
    walker: &'a dyn RootWalker,
    progress: &'a dyn Progress,
    lease: Lease,
    /// Every pack when it began.
    packs: BTreeMap<i64, PackRow>,
    /// Packs of work that was under way then.
    young: HashSet<i64>,
    listing: Listing,
    marks: Marks,
    walked: HashSet<Root>,
    /// Condemned by this or an earlier collection.
    condemned: Vec<PackRow>,
    done: Collected,
}

impl<'a> Collection<'a> {
    /// Packs come before leases, and those before roots. So a pack in the list is of work that is still seen under way, or
    /// whose roots are seen.
    fn begin(
        store: &'a Store,
        walker: &'a dyn RootWalker,
        progress: &'a dyn Progress,
        lease: Lease,
    ) -> Result<Collection<'a>> {
        let shared = &**store.shared();
        let packs = index::packs(&shared.database)?;
        let working = lease::held(&shared.paths, lease.id())?;
        let working: HashSet<LeaseId> = working.iter().map(|lease| lease.id).collect();
        let young = packs.iter().filter(|pack| working.contains(&pack.lease));
        let young = young.map(|pack| pack.number).collect();
        let chunks = packs.iter().map(|pack| pack.totals.chunks).sum();
        let numbers = packs.iter().map(|pack| pack.number).collect();
        let listing = store.list()?;
        let done = Collected {
            chunks,
            packs: packs.len() as u64,
            bytes_packs: packs.iter().map(|pack| pack.size).sum(),
            ..Collected::default()
        };
        Ok(Collection {
            store,
            shared,
            walker,
            progress,
            lease,
            marks: Marks::read(shared.database.clone(), numbers, chunks, progress)?,
            packs: packs.into_iter().map(|pack| (pack.number, pack)).collect(),
            young,
            listing,
            walked: HashSet::new(),
            condemned: Vec::new(),
            done,
        })
    }

    /// Marks what is needed now.
    fn mark(&mut self) -> Result<()> {
        self.walk(roots(self.shared, &self.listing, self.lease.id())?)?;
        self.done.missing = self.marks.missing();
        let uses = self.marks.uses();
        self.done.chunks_needed = uses.values().map(|used| used.needed).sum();
        for (number, pack) in &self.packs {
            // A row that was lost would hide what is needed.
            if uses[number].chunks != pack.totals.chunks
                && index::pack(&self.shared.database, *number).is_ok_and(|now| now == *pack)
            {
                return Err(Error::corrupt(format!(
                    "the index has {} chunks of pack {} where it counted {}",
                    uses[number].chunks, pack.id, pack.totals.chunks
                )));
            }
        }
        Ok(())
    }

    /// Walks the roots that were not walked before.
    fn walk(&mut self, roots: Vec<(Root, Holder)>) -> Result<()> {
        let new = roots.into_iter().filter(|(root, _)| !self.walked.contains(root)).collect();
        self.progress.begin("walking what is needed", 0);
        self.walked.extend(walk(self.walker, new, &self.marks)?);
        Ok(())
    }

    fn plan(&mut self, rewrite_max: u64) -> Result<Plan> {
        let mut uses = Vec::new();
        for (number, used) in self.marks.uses() {
            let Some(pack) = self.packs.get(&number).copied() else { continue };
            if self.young.contains(&number) {
                continue;
            }
            let is_condemned = pack.state == PackState::Condemned;
            let needed = match used.needed == used.chunks && used.chunks > 0 {
                true => {
                    let entries = used.chunks * PackEntry::LEN as u64;
                    Some(pack.totals.bytes_stored + entries + EMPTY_PACK_BYTES)
                }
                false => self.needed_of(&pack)?,
            };
            if let Some(needed) = needed {
                let (size, chunks) = (pack.size, used.chunks);
                uses.push(PackUse { number, size, chunks, needed, is_condemned });
            }
        }
        uses.sort_by_key(|pack| pack.number);
        // What is moved is there twice until packs go.
        let fits = space::file_system(self.shared.paths.root())?
            .map_or(u64::MAX, |all| all.bytes_free - all.bytes_free / FREE_BYTES_LEFT_DIVISOR);
        let (wanted, plan) =
            (Plan::new(&uses, rewrite_max), Plan::new(&uses, rewrite_max.min(fits)));
        self.done.is_short_of_space = plan.bytes_rewritten < wanted.bytes_rewritten;
        Ok(plan)
    }

    /// Bytes that a pack of what is needed of this one would have; 0 if that is nothing. `None` if it cannot be told, and
    /// the pack is to be left alone.
    fn needed_of(&mut self, pack: &PackRow) -> Result<Option<u64>> {
        let Some(footer) = self.footer(pack)? else { return Ok(None) };
        let needed = footer.entries.iter().filter(|entry| self.marks.is_needed(&entry.id));
        let chunks = needed.map(|entry| u64::from(entry.stored_len) + PackEntry::LEN as u64);
        let chunks: u64 = chunks.sum();
        let roots = self.carried(&footer)?.len() as u64 * RootRecord::LEN_MAX as u64;
        Ok(Some(if chunks + roots == 0 { 0 } else { chunks + roots + EMPTY_PACK_BYTES }))
    }

    /// What a pack says of itself. One that is not there any more, and of which the index has nothing, says nothing; one
    /// that is damaged is told of, and `None`.
    fn footer(&mut self, pack: &PackRow) -> Result<Option<PackFooter>> {
        match self.read_footer(pack) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.tell_damaged(error.chain());
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn tell_damaged(&mut self, what: String) {
        if !self.done.damaged.contains(&what) {
            self.done.damaged.push(what);
        }
    }

    fn read_footer(&self, pack: &PackRow) -> Result<PackFooter> {
        let path = self.shared.paths.pack(pack.id);
        let is_gone =
            fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if is_gone && pack.state == PackState::Condemned && pack.totals.chunks == 0 {
            return Ok(PackFooter::default());
        }
        read_footer(&self.shared.paths, pack.id).map(|(_, footer)| footer)
    }

    fn carried(&self, footer: &PackFooter) -> Result<Vec<RootRecord>> {
        let carry = |record| self.walker.carry(record, &self.listing).transpose();
        footer.roots.iter().filter_map(carry).collect()
    }

    fn would_do(mut self, plan: &Plan) -> Collected {
        let size = |number: &i64| self.packs.get(number).map_or(0, |pack| pack.size);
        let uses = self.marks.uses();
        let going = plan.remove.iter().chain(&plan.rewrite);
        let unneeded = |number: &i64| uses.get(number).map_or(0, |used| used.chunks - used.needed);
        self.done.packs_removed = going.clone().count() as u64;
        self.done.chunks_removed = going.clone().map(unneeded).sum();
        let moved = |number: &i64| uses.get(number).map_or(0, |used| used.needed);
        self.done.chunks_moved = plan.rewrite.iter().map(moved).sum();
        self.done.bytes_moved = plan.bytes_rewritten;
        self.done.bytes_removed = going.map(size).sum();
        self.done.bytes_written = plan.bytes_rewritten;
        self.done
    }

    /// Moves what is needed out of packs that are to go.
    fn rewrite(&mut self, plan: &Plan) -> Result<()> {
        self.progress.begin("moving chunks", plan.bytes_rewritten);
        let packs = plan.rewrite.iter().filter_map(|number| self.packs.get(number).copied());
        self.move_out(packs.collect())
    }

    /// Moves what is needed out of packs, with every core. One that is damaged is left as it is, and forgotten by this
    /// collection; so are all of them where there turns out to be no space.
    fn move_out(&mut self, packs: Vec<PackRow>) -> Result<()> {
        let (next, damaged) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let this = &*self;
        let worker = || {
            let mut mover =
                Mover::new(this.shared, &this.shared.reader, this.lease.id(), this.progress);
            while let Some(pack) = packs.get(next.fetch_add(1, Relaxed)) {
                let moved = this.read_footer(pack).and_then(|footer| {
                    mover.take(pack, &footer, &this.marks, this.carried(&footer)?)
                });
                match moved {
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        let mut damaged = damaged.lock().unwrap_or_else(PoisonError::into_inner);
                        damaged.push((pack.number, error.chain()));
                    }
                    other => other?,
                }
            }
            mover.finish()
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(packs.len());
        let moved: Vec<Result<Moved>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            let panicked = || Err(Error::internal("a thread that moves chunks panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
        });
        for moved in moved {
            let moved = match moved {
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    self.done.is_short_of_space = true;
                    packs.iter().for_each(|pack| _ = self.packs.remove(&pack.number));
                    Moved::default()
                }
                other => other?,
            };
            self.done.chunks_moved += moved.chunks;
            self.done.bytes_moved += moved.bytes;
            self.done.bytes_written += moved.bytes_packs;
        }
        for (number, what) in damaged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.packs.remove(&number);
            self.tell_damaged(what);
        }
        Ok(())
    }

    fn condemn(&mut self, plan: &Plan) -> Result<()> {
        let going = plan.remove.iter().chain(&plan.rewrite);
        let going = going.filter_map(|number| self.packs.get(number).copied());
        self.condemned = going.collect();
        let numbers: Vec<_> = self.condemned.iter().map(|pack| pack.number).collect();
        if self.condemned.iter().all(|pack| pack.state == PackState::Condemned) {
            return Ok(());
        }
        self.shared.change("cannot condemn packs", |change| index::condemn(change, &numbers))
    }

    /// Waits for work that began before and may have found what is condemned. False if it goes on for too long.
    fn wait(&mut self, until: Instant) -> Result<bool> {
        if self.condemned.is_empty() {
            return Ok(true);
        }
        let mut working = lease::held(&self.shared.paths, self.lease.id())?;
        self.progress.begin("waiting for work under way", 0);
        loop {
            working.retain(|lease| lease.reads().is_none());
            if working.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= until {
                self.done.packs_waiting = self.condemned.len() as u64;
                self.done.waiting_for = working.iter().map(HeldLease::holder).collect();
                return Ok(false);
            }
            thread::sleep(LEASE_PAUSE);
            let now = working.iter().map(|lease| lease::look_at(&self.shared.paths, lease.id));
            working = now.filter_map(Result::transpose).collect::<Result<_>>()?;
        }
    }

    /// Marks what is needed by what was published meanwhile.
    fn mark_again(&mut self) -> Result<()> {
        if self.condemned.is_empty() {
            return Ok(());
        }
        self.marks.begin_second_walk();
        self.walk(roots(self.shared, &self.store.list()?, self.lease.id())?)
    }

    /// Moves what turned out to be needed out of condemned packs.
    fn rescue(&mut self) -> Result<()> {
        let mut needing = Vec::new();
        for pack in self.condemned.clone() {
            let Some(footer) = self.footer(&pack)? else { continue };
            let mut is_needed = false;
            for entry in footer.entries.iter().filter(|entry| self.marks.is_needed(&entry.id)) {
                let found = index::find(&self.shared.database, &entry.id)?;
                is_needed |= found.is_some_and(|place| place.pack == pack.number);
            }
            if is_needed {
                needing.push(pack);
            }
        }
        self.move_out(needing)
    }

    /// Removes condemned packs: from the index, from the disk, and then the rows that say that they are on their way.
    fn remove(&mut self) -> Result<()> {
        let mut condemned = std::mem::take(&mut self.condemned);
        // Those that are damaged stay, condemned as they are.
        condemned.retain(|pack| self.packs.contains_key(&pack.number));
        self.progress.begin("removing packs", condemned.iter().map(|pack| pack.size).sum());
        let mut emptied = Vec::new();
        for pack in &condemned {
            if let Some(footer) = self.footer(pack)? {
                self.forget(pack, &footer)?;
                emptied.push(*pack);
            }
            self.progress.advance(pack.size);
        }
        for pack in &emptied {
            let path = self.shared.paths.pack(pack.id);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.context(|| format!("cannot remove {}", path.display()))?,
            }
        }
        silt_sys::durability::sync_dir(&self.shared.paths.packs())?;
        let numbers: Vec<_> = emptied.iter().map(|pack| pack.number).collect();
        self.shared.change("cannot end the collection", |change| {
            index::drop_packs(change, &numbers)?;
            catalog::clear_graves(change.transaction())
        })?;
        self.done.packs_removed += emptied.len() as u64;
        self.done.bytes_removed += emptied.iter().map(|pack| pack.size).sum::<u64>();
        Ok(())
    }

    /// Removes what nobody needs of a pack from the index. `Corrupt` if something is left then: what is needed was moved before.
    fn forget(&mut self, pack: &PackRow, footer: &PackFooter) -> Result<()> {
        let database = &self.shared.database;
        let chunks = footer.entries.iter().map(|entry| entry.id);
        let unneeded: Vec<ChunkId> = chunks.filter(|id| !self.marks.is_needed(id)).collect();
        self.done.chunks_removed += index::forget_chunks(database, pack.number, &unneeded)?;
        match index::pack(database, pack.number)?.totals.chunks {
            0 => Ok(()),
            left => Err(Error::corrupt(format!(
                "the index has {left} chunks in pack {} that are needed, or are not there",
                pack.id
            ))),
        }
    }
}

/// What a pack has beside chunks, entries and root records.
const EMPTY_PACK_BYTES: u64 = 2 * FileHeader::LEN as u64 + 8;

/// Walks roots with every core. Answers them, each once. `Corrupt` if one cannot be read.
fn walk(walker: &dyn RootWalker, roots: Vec<(Root, Holder)>, marks: &Marks) -> Result<Vec<Root>> {
    let mut holders: HashMap<Root, Vec<Holder>> = HashMap::new();
    for (root, holder) in roots {
        holders.entry(root).or_default().push(holder);
    }
    let pending: Vec<_> = holders.into_iter().collect();
    let (next, unreadable) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some((root, holders)) = pending.get(next.fetch_add(1, Relaxed)) {
            if let Err(error) = walker.walk(root, marks) {
                let mut unreadable = unreadable.lock().unwrap_or_else(PoisonError::into_inner);
                unreadable.push((holders.clone(), error));
            }
        }
    };
    let panicked = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().filter_map(|thread| thread.join().err()).count() > 0
    });
    if panicked {
        return Err(Error::internal("a thread that walks roots panicked"));
    }
    let unreadable = unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !unreadable.is_empty() {
        return Err(cannot_be_read(unreadable));
    }
    Ok(pending.into_iter().map(|(root, _)| root).collect())
}

fn cannot_be_read(mut unreadable: Vec<(Vec<Holder>, Error)>) -> Error {
    unreadable.iter_mut().for_each(|(holders, _)| holders.sort());
    unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    let told = unreadable.iter().take(UNREADABLE_TOLD_MAX).map(|(holders, error)| {
        let more = holders.len().saturating_sub(UNREADABLE_TOLD_MAX);
        let names = holders.iter().take(UNREADABLE_TOLD_MAX).map(Holder::to_string);
        let mut names = names.collect::<Vec<_>>().join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        format!("{names}: {}", error.chain())
    });
    let mut what = told.collect::<Vec<_>>().join("; ");
    if unreadable.len() > UNREADABLE_TOLD_MAX {
        what.push_str(&format!("; and {} more", unreadable.len() - UNREADABLE_TOLD_MAX));
    }
    Error::corrupt(format!(
        "nothing was removed, since it is not known what damaged names need; `silt rm` removes them: {what}"
    ))
}
