//! `docs/internals/formats.md` says what the code does: the layout tables in it are those of the code, and their magics
//! and versions stand in its first table.

#![allow(clippy::unwrap_used, clippy::panic)]

use silt_format as f;
use std::{fs, path::PathBuf};

const RECORDS: [f::Record; 21] = [
    f::FileHeader::RECORD,
    f::StoreFile::RECORD,
    f::CommitSlot::RECORD,
    f::PackEntry::RECORD,
    f::MAP_NODE_RECORD,
    f::MapRun::RECORD,
    f::TREE_NODE_RECORD,
    f::VolumeHeader::RECORD,
    f::DeltaLogHeader::RECORD,
    f::DeltaRecord::RECORD,
    f::DeltaNotes::RECORD,
    f::FolderCache::RECORD,
    f::FolderCacheFrame::RECORD,
    f::FolderCacheRecord::RECORD,
    f::FileStep::RECORD,
    f::LEASE_RECORD,
    f::ScrubFile::RECORD,
    f::ArchiveFrameHead::RECORD,
    f::ArchivedChunk::RECORD,
    f::ArchiveEnd::RECORD,
    f::LimitsFile::RECORD,
];

fn document() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/internals/formats.md");
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_layout_table_is_that_of_the_code() {
    let document = document();
    for record in RECORDS {
        assert!(record.is_contiguous(), "{} has gaps or overlaps", record.name);
        let expected =
            format!("### {}\n\n{} bytes.\n\n{}", record.name, record.len, record.markdown());
        assert!(document.contains(&expected), "formats.md should hold:\n\n{expected}");
    }
    assert_eq!(
        document.matches("| offset | length |").count(),
        RECORDS.len(),
        "a table the code does not know"
    );
}

#[test]
fn every_magic_and_version_is_that_of_the_code() {
    let document = document();
    let files = [
        (f::STORE_MAGIC, f::STORE_VERSION, "`store`"),
        (f::PACK_MAGIC, f::PACK_VERSION, "`packs/<id>.pack`"),
        (f::PACK_TRAILER_MAGIC, f::PACK_VERSION, "its trailer"),
        (f::LEASE_MAGIC, f::LEASE_VERSION, "`leases/<lease>`"),
        (f::SCRUB_MAGIC, f::SCRUB_VERSION, "`scrub`"),
        (f::LIMITS_MAGIC, f::LIMITS_VERSION, "`limits`"),
        (f::LAYER_CACHE_MAGIC, f::LAYER_CACHE_VERSION, "`caches/layers/<digest>`"),
        (f::VOLUME_MAGIC, f::VOLUME_VERSION, "`volumes/<id>/header`"),
        (f::DELTA_LOG_MAGIC, f::DELTA_LOG_VERSION, "`volumes/<id>/<delta>/map.log`"),
        (f::FOLDER_CACHE_MAGIC, f::FOLDER_CACHE_VERSION, "`caches/folders/<folder>`"),
        (f::ARCHIVE_MAGIC, f::ARCHIVE_VERSION, "an archive"),
    ];
    for (magic, version, file) in files {
        let row = format!("| {file} | `{}` | {version} |", String::from_utf8_lossy(&magic));
        assert!(document.contains(&row), "formats.md should hold: {row}");
    }
}
