//! Image layouts made by hand: what no program writes, but a stranger may, and the rules of layers one by one. What several
//! layers come to is compared with one layer that has just that.

use super::{digest::Digest, *};
use silt_types::{NoProgress, TreeId};
use std::{fs, io::Write as _, path::Path};
use tar::{EntryType, Header};

/// A layer under construction.
#[derive(Clone, Default)]
struct Layer {
    tar: Vec<u8>,
    packed: Option<Vec<u8>>,
    diff_id: Option<Digest>,
}

impl Layer {
    fn member(mut self, path: &str, kind: EntryType, target: &str, content: &[u8]) -> Layer {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Layer {
        self.member(path, EntryType::Regular, "", content.as_bytes())
    }

    fn folder(self, path: &str) -> Layer {
        self.member(path, EntryType::Directory, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Layer {
        self.member(path, EntryType::Symlink, target, b"")
    }

    fn link(self, path: &str, target: &str) -> Layer {
        self.member(path, EntryType::Link, target, b"")
    }

    fn end(mut self) -> Layer {
        self.tar.resize(self.tar.len() + 1024, 0);
        self
    }
}

fn put(dir: &Path, bytes: &[u8], kind: &str) -> String {
    let digest = Digest::of(bytes);
    fs::write(dir.join("blobs/sha256").join(digest.parts().1), bytes).unwrap();
    format!(r#"{{"mediaType": "{kind}", "digest": "{digest}", "size": {}}}"#, bytes.len())
}

/// Builds an image of these layers in a store of its own, twice: read, and known.
fn build_within(layers: &[Layer], max_size_bytes: u64) -> Result<TreeId> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    let layers: Vec<Layer> = layers.iter().map(|layer| layer.clone().end()).collect();
    let diff_id = |l: &Layer| {
        let id = l.diff_id.clone().unwrap_or_else(|| Digest::of(&l.tar));
        format!("\"{id}\"")
    };
    let ids = layers.iter().map(diff_id).collect::<Vec<_>>().join(", ");
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let blob = |l: &Layer| put(dir.path(), l.packed.as_ref().unwrap_or(&l.tar), kind);
    let blobs = layers.iter().map(blob).collect::<Vec<_>>().join(", ");
    let config = format!(r#"{{"os": "linux", "rootfs": {{"diff_ids": [{ids}]}}}}"#);
    let config = put(dir.path(), config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = format!(r#"{{"config": {config}, "layers": [{blobs}]}}"#);
    let manifest = put(dir.path(), manifest.as_bytes(), documents::MANIFEST_TYPES[1]);
    fs::write(dir.path().join("index.json"), format!(r#"{{"manifests": [{manifest}]}}"#)).unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let store = Store::open_or_create(&dir.path().join("store"), 1 << 20).unwrap();
    let source = Source::OciLayout(dir.path().into(), None);
    let mut trees = ["read", "known"].into_iter().map(|name| {
        let request = BuildRequest { max_size_bytes, ..BuildRequest::new(name.parse().unwrap()) };
        let (store, request) = (&store, &request);
        build(
            &Building { store, request, created_ns: 0, progress: &NoProgress, publishes: true },
            &source,
        )
    });
    let read = trees.next().unwrap()?;
    let known = trees.next().unwrap().unwrap();
    assert_eq!((known.record.disk, known.bytes_read), (read.record.disk, 0));
    assert_eq!(known.counts.bytes, read.counts.bytes);
    Ok(read.record.tree.unwrap())
}

fn tree(layers: &[Layer]) -> TreeId {
    build_within(layers, u64::MAX).unwrap()
}

fn layer() -> Layer {
    Layer::default()
}

/// Refused with this kind and a message that says this.
fn refused(layers: &[Layer], kind: ErrorKind, says: &str) {
    let error = build_within(layers, 64 << 20).unwrap_err();
    assert!(error.kind() == kind && error.chain().contains(says), "{error:?}");
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let below = layer().folder("d").file("d/a", "below").file("d/b", "below").file("c", "x");
    let above =
        layer().file("d/a", "above").file("d/.wh.a", "").file("d/.wh.b", "").file(".wh.c", "");
    assert_eq!(tree(&[below.clone(), above]), tree(&[layer().folder("d").file("d/a", "above")]));
    let above = layer().folder("d").file("d/new", "x").file("d/.wh..wh..opq", "");
    assert_eq!(
        tree(&[below.clone(), above]),
        tree(&[layer().folder("d").file("d/new", "x").file("c", "x")])
    );
    let all = layer().file("only", "x").file(".wh..wh..opq", "");
    assert_eq!(tree(&[below.clone(), all]), tree(&[layer().file("only", "x")]));
    // Of nothing, and behind a file, they hide nothing.
    let vain = layer().file("c/.wh.x", "").file("no/where/.wh.x", "").file("c/.wh..wh..opq", "");
    assert_eq!(tree(&[below.clone(), vain]), tree(&[below]));
}

#[test]
fn a_folder_in_place_of_a_link_hides_nothing_behind_the_link() {
    let below = layer().folder("d").file("d/kept", "x").symlink("l", "d");
    let above =
        layer().folder("l").file("l/.wh..wh..opq", "").file("l/.wh.kept", "").file("l/new", "y");
    let expected = layer().folder("d").file("d/kept", "x").folder("l").file("l/new", "y");
    assert_eq!(tree(&[below, above]), tree(&[expected]));
}

#[test]
fn links_on_the_way_lead_on_within_the_root() {
    let below = layer()
        .folder("usr")
        .folder("usr/lib")
        .symlink("lib", "/usr/lib")
        .symlink("up", "../../..");
    let above = layer().file("lib/a", "a").file("up/b", "b").file("/c", "c");
    let expected = below.clone().file("usr/lib/a", "a").file("b", "b").file("c", "c");
    assert_eq!(tree(&[below.clone(), above]), tree(&[expected]));
    let hidden = layer().file("usr/lib/a", "a");
    assert_eq!(tree(&[below.clone(), hidden, layer().file("lib/.wh.a", "")]), tree(&[below]));
}

#[test]
fn hard_links_lead_to_lower_layers_and_keep_what_they_led_to() {
    let below = layer().file("a", "old");
    let above = layer().link("b", "a").file("a", "new");
    assert_eq!(tree(&[below.clone(), above]), tree(&[layer().file("b", "old").file("a", "new")]));
    let linked = layer().file("a", "old").link("b", "a");
    assert_eq!(tree(&[below, layer().link("b", "a")]), tree(&[linked]));
}

#[test]
fn what_aufs_kept_for_itself_is_left_out() {
    let odd =
        layer().file(".wh..wh.aufs", "x").folder(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "x");
    assert_eq!(tree(&[layer().file("a", "x"), odd]), tree(&[layer().file("a", "x")]));
}

#[test]
fn the_same_layer_twice_and_empty_ones_are_layers_too() {
    let twice = layer().file("a", "x");
    let removed = layer().file(".wh.a", "");
    let layers = [twice.clone(), layer(), removed, layer(), twice.clone()];
    assert_eq!(tree(&layers), tree(&[twice]));
    assert_eq!(tree(&[]), tree(&[layer()]));
}

#[test]
fn compressed_layers_are_told_by_their_content() {
    let plain = layer().file("a", "some content").file("b", "more");
    let whole = plain.clone().end().tar;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let zstd = zstd::encode_all(&whole[..], 1).unwrap();
    for packed in [gzip.finish().unwrap(), zstd] {
        let packed = Layer { packed: Some(packed), ..plain.clone() };
        assert_eq!(tree(&[packed]), tree(std::slice::from_ref(&plain)));
    }
}

#[test]
fn content_that_is_not_what_the_configuration_says_is_refused() {
    let other = Layer { diff_id: Some(Digest::of(b"other")), ..layer().file("a", "x") };
    refused(&[layer().file("b", "x"), other], ErrorKind::Corrupt, Digest::of(b"other").as_str());
}

#[test]
fn layers_that_lead_out_or_come_to_too_much_are_refused() {
    let invalid = ErrorKind::Invalid;
    refused(&[layer().file("../x", "")], invalid, "'..'");
    refused(&[layer().file("a/.wh...", "")], invalid, "names nothing");
    refused(&[layer().file(".wh.", "")], invalid, "names nothing");
    refused(&[layer().file(".wh..", "")], invalid, "names nothing");
    refused(&[layer().link("a", "nowhere")], invalid, "not there");
    refused(&[layer().symlink("l", "l").file("l/x", "")], invalid, "too many symbolic links");
    refused(&[layer().file("a", "x").file("a/b", "x")], invalid, "no folder");
    let garbage = Layer { tar: vec![7; 2048], ..layer() };
    refused(&[garbage], invalid, "no member begins here");
    let xz = Layer {
        packed: Some([&[0xFD][..], b"7zXZ\0", &[0; 600]].concat()),
        ..layer().file("a", "x")
    };
    refused(&[xz], ErrorKind::Unsupported, "xz");
    // Each is within the limit, together they are not.
    let zeros = |name: &str| {
        let plain = layer().member(name, EntryType::Regular, "", &vec![0; 40 << 20]);
        let packed = zstd::encode_all(&plain.clone().end().tar[..], 1).unwrap();
        Layer { packed: Some(packed), ..plain }
    };
    refused(&[zeros("a"), zeros("b")], invalid, "allowed");
    assert!(build_within(&[zeros("a")], 64 << 20).is_ok());
}

#[test]
fn no_changed_byte_of_a_document_makes_a_reader_panic() {
    let digest = digest::Digest::of(b"x");
    let blob = format!(
        r#"{{"mediaType": "a", "digest": "{digest}", "size": 1, "platform": {{"os": "linux"}}}}"#
    );
    let documents = [
        format!(r#"{{"schemaVersion": 2, "manifests": [{blob}, {blob}]}}"#),
        format!(r#"{{"schemaVersion": 2, "config": {blob}, "layers": [{blob}, {blob}]}}"#),
        format!(r#"{{"os": "linux", "rootfs": {{"diff_ids": ["{digest}"]}}}}"#),
        format!(
            r#"[{{"Config": "{}.json", "RepoTags": ["a:1"], "Layers": ["x/layer.tar"]}}]"#,
            digest.parts().1
        ),
        r#"{"auths": {"h": {"auth": "dTpw"}}, "credHelpers": {}}"#.into(),
        r#"Bearer realm="https://h/token",service="s""#.into(),
        format!("h.x:5000/a/b:c@{digest}"),
    ];
    for document in documents {
        let document = document.into_bytes();
        for at in 0..document.len() {
            read_as_any_document(&document[..at]);
            for byte in [0, b'"', b'{', b'/', b':', 0xff, document[at] ^ 1] {
                let mut changed = document.clone();
                changed[at] = byte;
                read_as_any_document(&changed);
            }
        }
    }
    read_as_any_document(&[b'['; 100_000]);
}

/// A few hundred kilobytes of blob, which come to gigabytes: holes, unless that is more than is allowed.
#[test]
fn a_layer_of_five_gibibytes_of_zeros_is_a_hole_and_no_more_than_is_allowed() {
    const LEN: u64 = 5 << 30;
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(LEN);
    header.set_cksum();
    let mut hasher = Digest::of(b"").hasher();
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        packed.write_all(bytes).unwrap();
    };
    put(header.as_bytes());
    let zeros = vec![0; 1 << 20];
    (0..LEN >> 20).for_each(|_| put(&zeros));
    put(&[0; 1024]);
    let zeros = Layer {
        tar: Vec::new(),
        packed: Some(packed.finish().unwrap()),
        diff_id: Some(Digest::parse(&hasher.finish()).unwrap()),
    };
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_real_size(LEN);
    header.set_cksum();
    let hole = Layer { tar: header.as_bytes().to_vec(), ..layer() };
    assert_eq!(tree(std::slice::from_ref(&zeros)), tree(&[hole]));
    refused(&[zeros], ErrorKind::Invalid, "allowed");
}
