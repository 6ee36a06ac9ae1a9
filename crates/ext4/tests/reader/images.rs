//! Disks made by others: `mke2fs -d` over a folder of everything, and the kernel's own through a loop mount.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Runs `command` in a shell; its output is in the panic when it fails.
pub(super) fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-euc", command]).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command}: {text}");
    text
}

/// Whether loop mounts work here; says so when they do not.
pub(super) fn can_mount() -> bool {
    let able = fs::metadata("/dev/loop-control").is_ok()
        && fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !able {
        println!("skipped: loop mounts need root and /dev/loop-control");
    }
    able
}

/// A mounted disk image; unmounted at the end.
pub(super) struct Mounted {
    pub(super) at: PathBuf,
}

impl Mounted {
    /// Mounts the image `disk` on a folder beside it.
    pub(super) fn new(disk: &Path, options: &str) -> Mounted {
        let at = disk.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        sh(&format!("mount -t ext4 -o loop,{options} {} {}", disk.display(), at.display()));
        Mounted { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            println!("{} stays mounted", self.at.display());
        }
    }
}

/// Fills `folder` with one of everything a plain user can make, and with what root can as far as this is root.
pub(super) fn fill(folder: &Path) {
    fs::create_dir_all(folder.join("deep/er/and/deeper")).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    fs::write(folder.join("small"), b"hello").unwrap();
    fs::write(folder.join("border"), vec![7; 4096]).unwrap();
    fs::write(folder.join("deep/er/and/deeper/large"), noise(3_000_001)).unwrap();
    let odd = OsString::from_vec(vec![0xff, b'\n', b'"', b'\\', 1]);
    fs::write(folder.join(odd), b"odd name").unwrap();
    fs::write(folder.join("n".repeat(255)), b"long name").unwrap();
    sparse(&folder.join("sparse"));
    fs::hard_link(folder.join("small"), folder.join("deep/linked")).unwrap();
    for len in [1, 59, 60, 61, 500, 1000] {
        symlink("x".repeat(len), folder.join(format!("link-{len}"))).unwrap();
    }
    fs::create_dir(folder.join("many")).unwrap();
    for index in 0..1500 {
        fs::write(folder.join(format!("many/file-with-a-longer-name-{index}")), index.to_string())
            .unwrap();
    }
    fs::set_permissions(folder.join("border"), fs::Permissions::from_mode(0o6751)).unwrap();
    sh(&format!(
        "cd {}; mkfifo fifo; touch -d '2106-01-02 03:04:05.123456789' border; touch -d '1901-12-25' empty; \
         setfattr -n user.small -v value small; \
         for i in $(seq 12); do setfattr -n user.name-$i -v value-of-some-length-$i border; done",
        folder.display()
    ));
    if fs::metadata(folder).unwrap().uid() == 0 {
        sh(&format!(
            "cd {}; mknod null c 1 3; mknod high b 300 70000; chown 100000:4000000000 small; \
             setfacl -m u:1000:rw,g:2000:r small; setfacl -d -m u:7:rwx deep; setcap cap_net_raw+ep border; \
             setfattr -h -n trusted.x -v y link-60; python3 -c 'import socket as s; s.socket(s.AF_UNIX).bind(\"socket\")'",
            folder.display()
        ));
    }
}

fn sparse(path: &Path) {
    let file = fs::File::create(path).unwrap();
    for index in 0..700u64 {
        file.write_all_at(&noise(100 + index as usize), index * 9000 + 1).unwrap();
    }
    file.write_all_at(b"end", 70 << 20).unwrap();
    file.set_len((70 << 20) + 12_345).unwrap();
}

/// Bytes without a pattern, the same every time.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ len as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
