//! Sealing disks that hold ext4: made by mke2fs, written by the kernel, copied while they are mounted.

use silt_ext4::reader::{Ext4, FileDisk};
use silt_store::{Chunk, ChunkKind, ChunkSink, ChunkSource, Domain, KeyContext, MemoryChunks};
use silt_testkit::ext4_image::{LoopMount, run};
use silt_types::{BLOCK_SIZE_BYTES, ChunkId, DeltaId, DiskId, Error, NoProgress, Result};
use silt_volume::{
    BlockDevice as _, Delta, DeltaReader, DiskMap, MapVisitor, SealParts, Sealed, Volume,
    VolumeParts, seal,
};
use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;
const STEP: usize = 64 << 10;

/// Chunks in memory, and what was put since the last look.
#[derive(Default)]
struct Chunks {
    memory: MemoryChunks,
    put: Mutex<Vec<(ChunkKind, ChunkId, usize)>>,
}

impl ChunkSink for Chunks {
    fn put(&self, kind: ChunkKind, content: &[u8]) -> Result<ChunkId> {
        let id = self.memory.put(kind, content)?;
        self.put.lock().unwrap().push((kind, id, content.len()));
        Ok(id)
    }
}

impl ChunkSource for Chunks {
    fn get(&self, context: KeyContext, id: &ChunkId) -> Result<Chunk> {
        self.memory.get(context, id)
    }

    fn get_hot(&self, context: KeyContext, id: &ChunkId) -> Option<Chunk> {
        self.memory.get_hot(context, id)
    }
}

/// A disk in a file, and what was last sealed of it.
struct Disk {
    temp: TempDir,
    file: PathBuf,
    chunks: Arc<Chunks>,
    sealed: DiskId,
    deltas: u8,
}

impl Disk {
    /// Made by mke2fs with these options, and sealed.
    fn new(options: &str, size: &str) -> Disk {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("disk");
        let options = options.split_whitespace();
        run(Command::new("mke2fs").args(["-q", "-F"]).args(options).arg(&file).arg(size)).unwrap();
        let size_bytes = fs::metadata(&file).unwrap().len();
        let sealed = DiskId { root: DiskId::ZERO_ROOT, size_bytes };
        let mut disk = Disk { temp, file, chunks: Arc::default(), sealed, deltas: 0 };
        disk.seal_file();
        disk
    }

    fn mount(&self) -> Option<LoopMount> {
        let at = self.temp.path().join("mounted");
        fs::create_dir_all(&at).unwrap();
        LoopMount::new(&self.file, &at, "noatime").unwrap()
    }

    /// Seals what is in the file now and was not when it was last sealed, and checks that it reads as the file does.
    /// The file may be mounted.
    fn seal_file(&mut self) -> Sealed {
        let copy = self.temp.path().join("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&self.file).arg(&copy)).unwrap();
        let bytes = fs::read(copy).unwrap();
        let before = self.read(self.sealed);
        let delta = self.delta(|volume| {
            let blocks = bytes.chunks(BLOCK).zip(before.chunks(BLOCK)).enumerate();
            for (n, (new, _)) in blocks.filter(|(_, (new, old))| new != old) {
                volume.write_at(new, (n * BLOCK) as u64).unwrap();
            }
        });
        self.rebase(&delta, &bytes)
    }

    fn delta(&mut self, change: impl FnOnce(&Volume)) -> PathBuf {
        self.deltas += 1;
        let dir = self.temp.path().join(format!("delta-{}", self.deltas));
        Delta::create(&dir, DeltaId::from_bytes([self.deltas; 16]), self.sealed.size_bytes)
            .unwrap();
        let volume = self.open(self.sealed, Some(dir.clone()));
        change(&volume);
        volume.close().unwrap();
        dir
    }

    fn rebase(&mut self, delta: &Path, expected: &[u8]) -> Sealed {
        let sealed = self.seal(delta);
        let found = self.read(sealed.disk);
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!((found.len(), differs), (expected.len(), None));
        self.sealed = sealed.disk;
        sealed
    }

    fn seal(&self, delta: &Path) -> Sealed {
        let delta = DeltaReader::open(delta).unwrap();
        let parts = SealParts {
            source: self.chunks.clone(),
            domain: &Domain::published(),
            base: self.sealed,
            delta: &delta,
        };
        self.chunks.put.lock().unwrap().clear();
        seal(parts, &*self.chunks, &NoProgress).unwrap()
    }

    fn open(&self, base: DiskId, own: Option<PathBuf>) -> Volume {
        let size_bytes = base.size_bytes;
        let source = self.chunks.clone();
        Volume::open(VolumeParts { source, base, frozen: vec![], own, size_bytes, lease: None })
            .unwrap()
    }

    fn read(&self, disk: DiskId) -> Vec<u8> {
        let mut bytes = vec![0; disk.size_bytes as usize];
        self.open(disk, None).read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Number and bytes of the chunks of this kind that the last seal put.
    fn put(&self, kind: ChunkKind) -> (usize, usize) {
        let put = self.chunks.put.lock().unwrap();
        let lengths = put.iter().filter(|(of, ..)| *of == kind).map(|(.., len)| len);
        (lengths.clone().count(), lengths.sum())
    }

    /// The chunks of content that the sealed disk is made of.
    fn content(&self) -> HashSet<ChunkId> {
        struct Content(HashSet<ChunkId>);
        impl MapVisitor for Content {
            fn enter(&mut self, _node: &ChunkId) -> bool {
                true
            }
            fn node(&mut self, _node: &ChunkId, _len_bytes: u64) {}
            fn content(&mut self, chunk: &ChunkId) {
                self.0.insert(*chunk);
            }
            fn unreadable(&mut self, _node: &ChunkId, error: Error) -> Result<()> {
                Err(error)
            }
        }
        let mut content = Content(HashSet::new());
        let map = DiskMap::open(self.chunks.clone(), self.sealed).unwrap();
        map.walk(&mut content).unwrap();
        content.0
    }

    fn journal_blocks(&self) -> usize {
        let copy = File::open(self.temp.path().join("copy")).unwrap();
        Ext4::open(FileDisk::new(copy).unwrap()).unwrap().journal_blocks()
    }

    /// The first block of a file on the disk.
    fn first_block(&self, path: &str) -> u64 {
        let output =
            run(Command::new("debugfs").args(["-R", &format!("bmap {path} 0")]).arg(&self.file));
        String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len / 8 + 1).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

fn write(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

/// The chunks that a build would make of a file.
fn steps(content: &[u8]) -> impl Iterator<Item = ChunkId> {
    let steps = content.chunks(STEP).filter(|step| step.iter().any(|byte| *byte != 0));
    steps.map(|step| Domain::published().chunk_id(KeyContext::Content, step))
}

const LENGTHS: [usize; 9] =
    [1, 4095, 4096, 4097, STEP - 1, STEP, STEP + 1, 1_000_000, 5 * (1 << 20) + 77];

#[test]
fn root_loop_mount_new_files_are_sealed_as_the_chunks_that_a_build_makes_of_them() {
    for options in ["-t ext4 -b 4096", "-t ext3 -b 4096", "-t ext4 -b 4096 -O ^metadata_csum"] {
        let mut disk = Disk::new(options, "96M");
        let Some(mount) = disk.mount() else { return };
        let mut files: Vec<_> =
            LENGTHS.iter().map(|len| (format!("file-{len}"), noise(*len, *len as u64))).collect();
        let mut sparse = vec![0; 700_000];
        sparse[30_000..90_000].copy_from_slice(&noise(60_000, 1));
        sparse[300_000..300_100].fill(7);
        sparse[600_000..].copy_from_slice(&noise(100_000, 2));
        files.push(("sparse".into(), sparse));
        for (name, content) in &files {
            write(&mount.path().join(name), content);
        }
        File::open(mount.path()).unwrap().sync_all().unwrap();
        let sealed = disk.seal_file();
        assert!(disk.journal_blocks() > 0, "{options}: nothing stands in the journal alone");
        assert_eq!(sealed.hints_lost, None, "{options}");
        let content = disk.content();
        for (name, bytes) in &files {
            let missing = steps(bytes).filter(|step| !content.contains(step)).count();
            assert_eq!(missing, 0, "{options}: {name}");
        }
        let blocks = |bytes: &[u8]| {
            bytes.chunks(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64
        };
        let expected: u64 = files.iter().map(|(_, bytes)| blocks(bytes)).sum();
        assert_eq!(sealed.counts.blocks_along_files, expected, "{options}");
        drop(mount);
        disk.seal_file();
    }
}

/// The same files, written in another order on another disk, are the same chunks.
#[test]
fn root_loop_mount_equal_files_of_two_disks_are_equal_chunks() {
    let files: Vec<Vec<u8>> = (0..40).map(|n| noise(5_000 + n * 7_919, n as u64)).collect();
    let mut seen: Vec<HashSet<ChunkId>> = Vec::new();
    for reverse in [false, true] {
        let mut disk = Disk::new("-t ext4 -b 4096", "64M");
        let Some(mount) = disk.mount() else { return };
        let mut order: Vec<usize> = (0..files.len()).collect();
        if reverse {
            order.reverse();
        }
        for n in order {
            write(&mount.path().join(n.to_string()), &files[n]);
        }
        drop(mount);
        disk.seal_file();
        seen.push(disk.content());
    }
    let all: HashSet<ChunkId> = files.iter().flat_map(|bytes| steps(bytes)).collect();
    assert!(seen.iter().all(|content| all.is_subset(content)));
}

#[test]
fn root_loop_mount_one_changed_block_in_each_step_is_about_one_block_stored() {
    let mut disk = Disk::new("-t ext4 -b 4096", "64M");
    let Some(mount) = disk.mount() else { return };
    let content = noise(8 << 20, 1);
    write(&mount.path().join("file"), &content);
    disk.seal_file();
    let file = File::options().write(true).open(mount.path().join("file")).unwrap();
    for step in 0..128 {
        file.write_all_at(b"changed", (step * STEP + (step % 16) * BLOCK + 10) as u64).unwrap();
    }
    file.sync_all().unwrap();
    let sealed = disk.seal_file();
    assert_eq!(disk.put(ChunkKind::FileData), (128, 128 * BLOCK));
    assert_eq!(sealed.counts.blocks_along_files, 128);
}

#[test]
fn root_loop_mount_a_disk_written_whole_again_is_the_same_disk() {
    let mut disk = Disk::new("-t ext4 -b 4096", "48M");
    let Some(mount) = disk.mount() else { return };
    for len in LENGTHS {
        write(&mount.path().join(len.to_string()), &noise(len, 3));
    }
    drop(mount);
    disk.seal_file();
    let bytes = disk.read(disk.sealed);
    let delta = disk.delta(|volume| volume.write_at(&bytes, 0).unwrap());
    let (chunks, before) = (disk.chunks.memory.len(), disk.sealed);
    let sealed = disk.rebase(&delta, &bytes);
    assert_eq!((sealed.disk, disk.chunks.memory.len()), (before, chunks));
    assert_eq!(disk.chunks.put.lock().unwrap().len(), 0);
    let counts = sealed.counts;
    assert_eq!(counts.blocks_unchanged + counts.blocks_zero, counts.blocks_dirty);
}

/// A kernel that maps a file into memory may leave anything behind its end. The disk keeps that, the file's chunks do not.
#[test]
fn root_loop_mount_what_stands_behind_the_end_of_a_file_gets_a_chunk_of_its_own() {
    let mut disk = Disk::new("-t ext4 -b 4096", "32M");
    let Some(mount) = disk.mount() else { return };
    let content = noise(20_000, 4);
    write(&mount.path().join("file"), &content);
    drop(mount);
    let last = disk.first_block("file") + 4;
    let raw = File::options().read(true).write(true).open(&disk.file).unwrap();
    raw.write_all_at(b"left over", last * BLOCK_SIZE_BYTES + 4000).unwrap();
    disk.seal_file();
    let mut block = vec![0; BLOCK];
    raw.read_exact_at(&mut block, last * BLOCK_SIZE_BYTES).unwrap();
    let found = disk.content();
    assert!(steps(&content).all(|step| found.contains(&step)));
    assert!(found.contains(&Domain::published().chunk_id(KeyContext::Content, &block)));
}

#[test]
fn files_in_small_blocks_and_other_disks_are_cut_on_the_grid_and_say_why() {
    let mut disk = Disk::new("-t ext4 -b 1024", "16M");
    let bytes = disk.read(disk.sealed);
    let delta = disk.delta(|volume| volume.write_at(&bytes, 0).unwrap());
    let lost = disk.rebase(&delta, &bytes).hints_lost.unwrap();
    assert!(lost.contains("1024 bytes"), "{lost}");
    let noise = noise(16 << 20, 9);
    let delta = disk.delta(|volume| volume.write_at(&noise, 0).unwrap());
    let sealed = disk.rebase(&delta, &noise);
    assert_eq!(sealed.counts.blocks_on_grid, 4096);
    assert_eq!(sealed.hints_lost.unwrap(), "there is no ext4 on the disk");
}

/// The metadata of a frozen disk is only asked where to cut. Whatever it says, the disk reads as it did.
#[test]
fn root_loop_mount_hostile_metadata_never_changes_what_is_read() {
    let mut disk = Disk::new("-t ext4 -b 4096 -O ^metadata_csum", "12M");
    let Some(mount) = disk.mount() else { return };
    for n in 0..60 {
        write(&mount.path().join(n.to_string()), &noise(1 + n * 2_017, n as u64));
    }
    drop(mount);
    let bytes = fs::read(&disk.file).unwrap();
    let table = inode_table(&disk.file);
    let mut random = noise(1 << 20, 5).into_iter();
    let mut number = |end: usize| {
        let bytes = std::array::from_fn(|_| random.next().unwrap());
        u32::from_le_bytes(bytes) as usize % end
    };
    let mut along_files = 0;
    for _ in 0..120 {
        let mut hostile = bytes.clone();
        for _ in 0..=number(40) {
            // The inodes of the files: behind the reserved ones, 256 bytes each.
            let at = table * BLOCK + 11 * 256 + number(60) * 256 + number(160);
            hostile[at] = match number(3) {
                0 => hostile[at] ^ 1 << number(8),
                1 => number(256) as u8,
                _ => hostile[table * BLOCK + 11 * 256 + number(60 * 256)],
            };
        }
        let delta = disk.delta(|volume| volume.write_at(&hostile, 0).unwrap());
        let sealed = disk.seal(&delta);
        assert!(disk.read(sealed.disk) == hostile);
        assert_eq!(disk.seal(&delta).disk, sealed.disk);
        along_files += sealed.counts.blocks_along_files;
        fs::remove_dir_all(delta).unwrap();
        disk.deltas -= 1;
    }
    assert!(along_files > 10_000, "{along_files}");
}

/// The first block of the inode table of the first group.
fn inode_table(disk: &Path) -> usize {
    let output = run(Command::new("dumpe2fs").arg(disk)).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, after) = text.split_once("Inode table at ").unwrap();
    after.split('-').next().unwrap().parse().unwrap()
}

/// Steps whose blocks lie apart are read from all over the disk, and made in each region that has some of them.
#[test]
fn root_loop_mount_a_file_in_many_pieces_is_sealed_as_its_steps() {
    let mut disk = Disk::new("-t ext4 -b 4096 -O ^has_journal -N 8192", "32M");
    let Some(mount) = disk.mount() else { return };
    let small = |n: usize| mount.path().join(n.to_string());
    let count = (0..8000).take_while(|n| fs::write(small(*n), noise(4000, 7)).is_ok()).count();
    run(&mut Command::new("sync")).unwrap();
    (0..count).step_by(2).for_each(|n| fs::remove_file(small(n)).unwrap());
    run(&mut Command::new("sync")).unwrap();
    let content = noise(10 << 20, 8);
    write(&mount.path().join("file"), &content);
    let extents = run(Command::new("filefrag").arg(mount.path().join("file"))).unwrap();
    let extents = String::from_utf8(extents.stdout).unwrap();
    drop(mount);
    disk.seal_file();
    let found = disk.content();
    let missing = steps(&content).filter(|step| !found.contains(step)).count();
    assert_eq!(missing, 0, "{extents}");
    let extents = extents.split_whitespace().rev().nth(2).and_then(|n| n.parse::<usize>().ok());
    assert!(extents.is_some_and(|extents| extents > 1000), "{extents:?}");
}
