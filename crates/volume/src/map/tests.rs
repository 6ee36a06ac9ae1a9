use super::*;
use proptest::prelude::*;
use silt_format::{MapChildren, MapNode, MapRun, map_root_level};
use silt_store::{Chunk, ChunkKind, ChunkSink, ChunkSource, KeyContext, MemoryChunks};
use silt_types::{BLOCK_SIZE_BYTES, DiskId, Error, ErrorKind, Result};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// What every mapped block is: the number of its chunk and the block in it.
type Model = BTreeMap<u64, (u8, u64)>;

fn chunk(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

fn set(model: &mut Model, change: &MapChange) {
    for n in 0..change.range.len {
        let block = change.range.start + n;
        match change.place {
            Some(place) => {
                model.insert(block, (place.chunk.as_bytes()[0], place.offset_blocks + n))
            }
            None => model.remove(&block),
        };
    }
}

fn build(sink: &dyn ChunkSink, blocks: u64, model: &Model) -> DiskId {
    let mut builder = MapBuilder::new(sink, blocks * BLOCK_SIZE_BYTES).unwrap();
    for (block, (number, offset)) in model {
        builder.map(*block, 1, chunk(*number), *offset).unwrap();
    }
    builder.finish().unwrap()
}

fn read(map: &DiskMap) -> Model {
    let mut model = Model::new();
    let mut last_end = 0;
    for extent in map.extents() {
        let MappedExtent { range, place } = extent.unwrap();
        assert!(range.start >= last_end, "extents ascend");
        last_end = range.end();
        set(&mut model, &MapChange { range, place: Some(place) });
    }
    model
}

fn changes(blocks: u64) -> impl Strategy<Value = Vec<MapChange>> {
    // Starts near the borders of leaves and inner nodes, where the mistakes are.
    let borders = [0, 256, 512, 16_384, 1 << 20, 1 << 26, blocks - 1].map(|at| at.min(blocks - 1));
    let start = (prop::sample::select(borders.to_vec()), -20i64..20)
        .prop_map(move |(at, by)| at.saturating_add_signed(by).min(blocks - 1));
    let zero_len = prop_oneof![4 => 1u64..40, 1 => 1u64..70_000];
    let mapped =
        (start.clone(), 1u8..4, 0u64..16, 1u64..17).prop_map(|(start, number, at, len)| {
            let range = BlockRange { start, len: len.min(16 - at) };
            MapChange { range, place: Some(ChunkPlace { chunk: chunk(number), offset_blocks: at }) }
        });
    let zero = (start, zero_len)
        .prop_map(|(start, len)| MapChange { range: BlockRange { start, len }, place: None });
    prop::collection::vec(prop_oneof![3 => mapped, 1 => zero], 0..40).prop_map(move |mut all| {
        all.sort_by_key(|change| change.range.start);
        let mut end = 0;
        all.retain_mut(|change| {
            change.range.len = change.range.len.min(blocks - change.range.start);
            let keep = change.range.start >= end;
            end = if keep { change.range.end() } else { end };
            keep
        });
        all
    })
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(256), Just(257), Just(20_000), Just(1 << 26), Just((1 << 32) - 5)]
}

/// The ranges of a diff of maps, block by block.
fn diff(a: &DiskMap, b: &DiskMap) -> Vec<u64> {
    let ranges: Vec<_> = diff_maps(a, b).map(Result::unwrap).collect();
    assert!(ranges.windows(2).all(|two| two[0].end() <= two[1].start), "ranges ascend");
    ranges.iter().flat_map(|range| range.start..range.end()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn maps_differ_where_their_places_do(
        (blocks, first, others, second) in sizes().prop_flat_map(|n| {
            sizes().prop_flat_map(move |m| {
                // Changes to the first map, or a map of its own.
                (Just(n), changes(n), Just(m), changes(m))
            })
        }),
        on_top: bool,
    ) {
        let chunks = Arc::new(MemoryChunks::new());
        let (mut one, mut other) = (Model::new(), Model::new());
        first.iter().for_each(|change| set(&mut one, change));
        if on_top {
            other.extend(one.iter().filter(|(block, _)| **block < others));
        }
        second.iter().for_each(|change| set(&mut other, change));
        let a = DiskMap::open(chunks.clone(), build(&*chunks, blocks, &one)).unwrap();
        let b = DiskMap::open(chunks.clone(), build(&*chunks, others, &other)).unwrap();
        let all: std::collections::BTreeSet<u64> = one.keys().chain(other.keys()).copied().collect();
        let expected: Vec<u64> =
            all.into_iter().filter(|block| one.get(block) != other.get(block)).collect();
        prop_assert_eq!(diff(&a, &b), expected.clone());
        prop_assert_eq!(diff(&b, &a), expected);
        prop_assert_eq!(diff(&a, &a), Vec::<u64>::new());
    }

    #[test]
    fn what_a_map_has_and_others_have_not_is_met_from_below(
        (blocks, first, others, second) in sizes().prop_flat_map(|n| {
            sizes().prop_flat_map(move |m| (Just(n), changes(n), Just(m), changes(m)))
        }),
        on_top: bool,
    ) {
        let chunks = Arc::new(MemoryChunks::new());
        let (mut one, mut other) = (Model::new(), Model::new());
        first.iter().for_each(|change| set(&mut one, change));
        if on_top {
            other.extend(one.iter().filter(|(block, _)| **block < others));
        }
        second.iter().for_each(|change| set(&mut other, change));
        let empty = Model::new();
        let open = |blocks, model: &Model| {
            DiskMap::open(chunks.clone(), build(&*chunks, blocks, model)).unwrap()
        };
        let reached = |map: &DiskMap| {
            let mut reached = Reached::default();
            map.walk(&mut reached).unwrap();
            reached.nodes.into_iter().chain(reached.content).collect::<HashSet<_>>()
        };
        let (a, b, zeros) = (open(blocks, &one), open(others, &other), open(1, &empty));
        let (of_a, of_b) = (reached(&a), reached(&b));
        let mut climbed = Climbed::default();
        b.climb(&[a, zeros], &mut climbed).unwrap();
        prop_assert!(climbed.met.is_subset(&of_b));
        prop_assert!(of_b.iter().all(|id| climbed.met.contains(id) || of_a.contains(id)));
        if !climbed.met.is_empty() {
            prop_assert_eq!(climbed.last, Some(b.disk_id().root));
        }
        let mut nothing = Climbed::default();
        b.climb(&[open(others, &other)], &mut nothing).unwrap();
        prop_assert!(nothing.met.is_empty());
    }

    #[test]
    fn a_map_answers_what_it_was_built_from(
        (blocks, changes) in sizes().prop_flat_map(|n| (Just(n), changes(n)))
    ) {
        let chunks = Arc::new(MemoryChunks::new());
        let mut model = Model::new();
        changes.iter().for_each(|change| set(&mut model, change));
        let disk = build(&*chunks, blocks, &model);
        let map = DiskMap::open(chunks, disk).unwrap();
        prop_assert_eq!(&read(&map), &model);
        let near = model.keys().flat_map(|block| [block.saturating_sub(1), *block, block + 1]);
        for block in near.chain([0, blocks - 1]).filter(|block| *block < blocks) {
            for extent in [map.lookup(block).unwrap(), map.lookup_hot(block).unwrap().unwrap()] {
                prop_assert!(extent.len_blocks >= 1 && block + extent.len_blocks <= blocks);
                for n in 0..extent.len_blocks.min(300) {
                    let found = extent.place.map(|p| (p.chunk.as_bytes()[0], p.offset_blocks + n));
                    prop_assert_eq!(found, model.get(&(block + n)).copied());
                }
            }
        }
        prop_assert_eq!(map.lookup(blocks).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn an_updated_map_equals_one_built_anew(
        (blocks, first, grown, second) in sizes().prop_flat_map(|n| {
            sizes().prop_flat_map(move |more| {
                let grown = n.max(more);
                (Just(n), changes(n), Just(grown), changes(grown))
            })
        })
    ) {
        let chunks = MemoryChunks::new();
        let mut model = Model::new();
        first.iter().for_each(|change| set(&mut model, change));
        let base = build(&chunks, blocks, &model);
        second.iter().for_each(|change| set(&mut model, change));
        let size = grown * BLOCK_SIZE_BYTES;
        let stored = CountingSink::new(&chunks);
        let updated =
            update_map(&chunks, &stored, base, size, second.into_iter().map(Ok)).unwrap();
        prop_assert_eq!(updated, build(&chunks, grown, &model));
        // Nothing is stored that the result does not refer to.
        let distinct = stored.ids.lock().unwrap().clone();
        let mut reached = Reached::default();
        DiskMap::open(Arc::new(chunks), updated).unwrap().walk(&mut reached).unwrap();
        prop_assert!(distinct.is_subset(&reached.nodes));
    }

    #[test]
    fn the_beginning_of_a_map_equals_one_built_without_the_rest(
        (blocks, changes, cut) in sizes().prop_flat_map(|n| {
            let cut = (sizes(), -3i64..4).prop_map(|(at, by)| at.saturating_add_signed(by).max(1));
            (Just(n), changes(n), cut.prop_map(move |cut| cut.min(n)))
        })
    ) {
        let chunks = MemoryChunks::new();
        let mut model = Model::new();
        changes.iter().for_each(|change| set(&mut model, change));
        let base = build(&chunks, blocks, &model);
        let size = cut * BLOCK_SIZE_BYTES;
        let shrunk = shrink_map(&chunks, &chunks, base, size).unwrap();
        model.retain(|block, _| *block < cut);
        prop_assert_eq!(shrunk, build(&chunks, cut, &model));
        let beyond = shrink_map(&chunks, &chunks, base, base.size_bytes + 1);
        prop_assert_eq!(beyond.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// What a climb came to, each node behind all that it names.
#[derive(Default)]
struct Climbed {
    entered: Vec<ChunkId>,
    met: HashSet<ChunkId>,
    last: Option<ChunkId>,
}

impl MapClimber for Climbed {
    fn enter(&mut self, node: &ChunkId, _place: NodePlace) -> bool {
        let is_new = !self.met.contains(node);
        if is_new {
            self.entered.push(*node);
        }
        is_new
    }

    fn content(&mut self, chunk: &ChunkId) -> Result<()> {
        self.met.insert(*chunk);
        Ok(())
    }

    fn node(&mut self, node: &ChunkId) -> Result<()> {
        assert_eq!(self.entered.pop().as_ref(), Some(node), "the innermost first");
        self.met.insert(*node);
        self.last = Some(*node);
        Ok(())
    }
}

#[derive(Default)]
struct Reached {
    nodes: HashSet<ChunkId>,
    content: Vec<ChunkId>,
    unreadable: Vec<Error>,
}

impl MapVisitor for Reached {
    fn enter(&mut self, node: &ChunkId) -> bool {
        self.nodes.insert(*node);
        true
    }

    fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}

    fn content(&mut self, chunk: &ChunkId) {
        self.content.push(*chunk);
    }

    fn unreadable(&mut self, _node: &ChunkId, error: Error) -> Result<()> {
        self.unreadable.push(error);
        Ok(())
    }
}

/// Adds up what is put.
struct CountingSink<'a> {
    inner: &'a MemoryChunks,
    ids: Mutex<HashSet<ChunkId>>,
    bytes: AtomicU64,
}

impl<'a> CountingSink<'a> {
    fn new(inner: &'a MemoryChunks) -> Self {
        CountingSink { inner, ids: Mutex::default(), bytes: AtomicU64::new(0) }
    }
}

impl ChunkSink for CountingSink<'_> {
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId> {
        let id = self.inner.put(kind, content)?;
        if self.ids.lock().unwrap().insert(id) {
            self.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        }
        Ok(id)
    }
}

fn numbered(number: u64) -> ChunkId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ChunkId::from_bytes(bytes)
}

/// Bytes of nodes that a change of one MiB in a run, and of 256 blocks all over, adds to a TiB with a million extents.
fn cost_of_changes(extent_at: impl Fn(u64) -> u64) -> (u64, u64) {
    const TIB: u64 = 1 << 40;
    let chunks = MemoryChunks::new();
    let mut builder = MapBuilder::new(&chunks, TIB).unwrap();
    for n in 0..1 << 20 {
        builder.map(extent_at(n), 1, numbered(n), 0).unwrap();
    }
    let base = builder.finish().unwrap();
    let cost = |changes: Vec<MapChange>| {
        let sink = CountingSink::new(&chunks);
        update_map(&chunks, &sink, base, TIB, changes.into_iter().map(Ok)).unwrap();
        sink.bytes.into_inner()
    };
    let change = |start, number| MapChange {
        range: BlockRange { start, len: 1 },
        place: Some(ChunkPlace { chunk: numbered(number), offset_blocks: 0 }),
    };
    let at = extent_at(1 << 19) - 100;
    let run = cost((0..256).map(|n| change(at + n, (1 << 40) + n)).collect());
    let scattered = cost((0..256).map(|n| change(extent_at(n << 12) + 1, (1 << 41) + n)).collect());
    (run, scattered)
}

#[test]
fn small_changes_of_a_tib_with_a_million_extents_stay_small() {
    for layout in ["one extent in each leaf", "leaves full of extents, far apart"] {
        let (run, scattered) = cost_of_changes(|n| match layout {
            "one extent in each leaf" => n * 256 + n % 200,
            _ => (n >> 8) * 65_536 + n % 256,
        });
        println!("{layout}: 1 MiB in a run adds {run} bytes, 256 blocks all over {scattered}");
        assert!(run <= 256 << 10 && scattered <= 4 << 20, "{layout}: {run}, {scattered}");
    }
}

#[test]
fn a_disk_without_content_has_no_nodes_and_growing_it_costs_nothing() {
    let chunks = Arc::new(MemoryChunks::new());
    let disk = MapBuilder::new(&*chunks, 1 << 44).unwrap().finish().unwrap();
    assert_eq!((disk.root, chunks.len()), (DiskId::ZERO_ROOT, 0));
    let map = DiskMap::open(chunks.clone(), disk).unwrap();
    assert_eq!(map.lookup(5).unwrap(), Extent { len_blocks: (1 << 32) - 5, place: None });
    assert_eq!((map.extents().count(), map.map_bytes().unwrap()), (0, 0));
    let empty = DiskId { root: DiskId::ZERO_ROOT, size_bytes: 0 };
    let grown = update_map(&*chunks, &*chunks, empty, 1 << 44, []).unwrap();
    assert_eq!((grown, chunks.len()), (disk, 0));
}

#[test]
fn extents_out_of_order_or_out_of_bounds_are_invalid() {
    let chunks = MemoryChunks::new();
    let cases: [(u64, u64, u8, u64); 7] = [
        (3, 1, 1, 0),
        (299, 2, 1, 0),
        (300, 1, 1, 0),
        (u64::MAX, 2, 1, 0),
        (20, 0, 1, 0),
        (20, 2, 1, 15),
        (20, 1, 0, 0),
    ];
    for (block, len, number, offset) in cases {
        let mut builder = MapBuilder::new(&chunks, 300 * BLOCK_SIZE_BYTES).unwrap();
        builder.map(0, 4, chunk(1), 0).unwrap();
        let error = builder.map(block, len, chunk(number), offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{block} {len} {number} {offset}");
    }
    assert!(MapBuilder::new(&chunks, (1 << 44) + 1).is_err());
    let base = DiskId { root: DiskId::ZERO_ROOT, size_bytes: 8192 };
    let zero = |start, len| Ok(MapChange { range: BlockRange { start, len }, place: None });
    for changes in [vec![zero(1, 1), zero(0, 1)], vec![zero(0, 3)], vec![zero(0, u64::MAX)]] {
        let error = update_map(&chunks, &chunks, base, 8192, changes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert!(update_map(&chunks, &chunks, base, 4096, []).is_err(), "a disk does not shrink");
}

/// Answers whatever it was given under any name, as a store without checks would.
struct Lies(BTreeMap<ChunkId, Vec<u8>>);

impl ChunkSource for Lies {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.get_hot(context, id)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("chunk {id} is missing")))
    }

    fn get_hot(&self, _context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.0.get(id).cloned().map(Chunk::new)
    }
}

fn leaf(first: u8) -> Vec<u8> {
    MapNode::Leaf(vec![MapRun { first, len: 1, chunk_offset: 0, chunk: chunk(9) }]).encode()
}

fn inner(level: u8, children: &[(u8, ChunkId)]) -> Vec<u8> {
    let mut all = MapChildren::default();
    children.iter().for_each(|(position, id)| all.push(*position, *id));
    MapNode::Inner { level, children: all }.encode()
}

type Node = (ChunkId, Vec<u8>);

#[test]
fn nodes_in_the_wrong_place_are_corrupt_and_named() {
    let one = chunk(1);
    let cases: [(&str, Vec<Node>); 6] = [
        ("a leaf as root of a higher tree", vec![(one, leaf(0))]),
        ("an inner node that is its own child", vec![(one, inner(1, &[(0, one)]))]),
        ("a level too high", vec![(one, inner(2, &[(0, one)]))]),
        ("a child beyond the disk", vec![(one, inner(1, &[(0, chunk(2)), (2, chunk(2))]))]),
        ("garbage", vec![(one, vec![0x53; 700])]),
        ("nothing", vec![(one, vec![])]),
    ];
    for (what, nodes) in cases {
        let disk = DiskId { root: one, size_bytes: 500 * BLOCK_SIZE_BYTES };
        let map = DiskMap::open(Arc::new(Lies(nodes.into_iter().collect())), disk).unwrap();
        let error = map.lookup(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
        assert!(error.chain().contains(&one.to_string()), "{what}: {error:?}");
        assert_eq!(map.lookup_hot(0).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
        assert_eq!(map.extents().next().unwrap().unwrap_err().kind(), ErrorKind::Corrupt);
        let mut reached = Reached::default();
        map.walk(&mut reached).unwrap();
        assert_eq!(reached.unreadable.len(), 1, "{what}");
    }
}

/// Counts the nodes that are read.
struct Counting {
    chunks: Arc<MemoryChunks>,
    reads: AtomicU64,
}

impl ChunkSource for Counting {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.chunks.get(context, id)
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.chunks.get_hot(context, id)
    }
}

#[test]
fn equal_subtrees_are_not_read_to_be_compared() {
    let chunks = Arc::new(MemoryChunks::new());
    let blocks = 1 << 22;
    let mut model: Model = (0..400).map(|n| (n * 10_000, (1, 0))).collect();
    let a = build(&*chunks, blocks, &model);
    model.insert(123_456, (2, 3));
    let b = build(&*chunks, blocks, &model);
    let counting = Arc::new(Counting { chunks, reads: AtomicU64::new(0) });
    let open = |disk| DiskMap::open(counting.clone(), disk).unwrap();
    assert_eq!(diff(&open(a), &open(b)), [123_456]);
    // One path from the root to a leaf, on either side; the leaf is new on one of them.
    assert_eq!(counting.reads.load(Ordering::Relaxed), 7);
    open(b).climb(&[open(a)], &mut Climbed::default()).unwrap();
    assert_eq!(counting.reads.load(Ordering::Relaxed), 7 + 7);
}

#[test]
fn hostile_maps_are_errors_when_compared_and_the_rest_is_told() {
    let (root, other, good) = (chunk(1), chunk(5), chunk(2));
    let nodes = [
        (root, inner(1, &[(0, good), (1, chunk(4)), (2, root), (3, good)])),
        (other, inner(1, &[(0, good)])),
        (good, leaf(7)),
    ];
    let source = Arc::new(Lies(nodes.into_iter().collect()));
    let open = |root| {
        let disk = DiskId { root, size_bytes: 1000 * BLOCK_SIZE_BYTES };
        DiskMap::open(source.clone(), disk).unwrap()
    };
    let (a, b) = (open(root), open(other));
    let found: Vec<_> =
        diff_maps(&a, &b).map(|range| range.map_err(|error| error.kind())).collect();
    let expected = [
        Err(ErrorKind::NotFound),
        Err(ErrorKind::Corrupt),
        Ok(BlockRange { start: 3 * 256 + 7, len: 1 }),
    ];
    assert_eq!(found, expected);
    // A root that is its own child stands for no longer a disk than one of that level.
    let long = DiskId { root, size_bytes: 20_000 * BLOCK_SIZE_BYTES };
    let long = DiskMap::open(source.clone(), long).unwrap();
    assert!(diff_maps(&long, &b).any(|range| range.is_err()));
}

#[test]
fn a_missing_or_overlong_leaf_spoils_only_what_it_covers() {
    let (root, good, long) = (chunk(1), chunk(2), chunk(3));
    let nodes = [
        (root, inner(1, &[(0, good), (1, chunk(4)), (2, good), (3, long)])),
        (good, leaf(7)),
        (long, leaf(255)),
    ];
    let disk = DiskId { root, size_bytes: 1000 * BLOCK_SIZE_BYTES };
    let source = Lies(nodes.into_iter().collect());
    let map = DiskMap::open(Arc::new(source), disk).unwrap();
    let kinds: Vec<_> = map.extents().map(|extent| extent.map_err(|error| error.kind())).collect();
    let found: Vec<_> = kinds.iter().flatten().map(|extent| extent.range.start).collect();
    assert_eq!(found, [7, 512 + 7]);
    assert_eq!((kinds[1], kinds[3]), (Err(ErrorKind::NotFound), Err(ErrorKind::Corrupt)));
    assert_eq!(map.lookup(256).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(map.lookup_hot(256).unwrap(), None);
    assert_eq!(map.lookup(512 + 7).unwrap().place.unwrap().chunk, chunk(9));
    assert_eq!(map_root_level(1000), Some(1));
}
