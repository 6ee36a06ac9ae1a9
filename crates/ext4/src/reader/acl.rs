//! POSIX ACLs: from the form ext4 keeps them in to the one `getxattr(2)` gives.
//!
//! Both are a version and a list of entries. On disk an entry carries an id only where its tag needs one; the kernel's
//! form always has one, all ones where there is none.
//!
//! Sources: Linux `fs/ext4/acl.c` (on disk), `include/uapi/linux/posix_acl_xattr.h`.

const DISK_VERSION: u32 = 1;
const XATTR_VERSION: u32 = 2;
const TAG_USER: u16 = 0x02;
const TAG_GROUP: u16 = 0x08;
const TAGS_WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
const NO_ID: [u8; 4] = [0xff; 4];

/// The kernel's form of the ACL that ext4 keeps as `disk`, or `None` if that is not one.
pub(super) fn to_xattr(disk: &[u8]) -> Option<Vec<u8>> {
    let (version, mut rest) = disk.split_first_chunk()?;
    if u32::from_le_bytes(*version) != DISK_VERSION {
        return None;
    }
    let mut xattr = XATTR_VERSION.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (tag_and_permissions, after) = rest.split_at_checked(4)?;
        let tag = u16::from_le_bytes(*tag_and_permissions.first_chunk()?);
        let (id, after) = match tag {
            TAG_USER | TAG_GROUP => after.split_at_checked(4)?,
            _ if TAGS_WITHOUT_ID.contains(&tag) => (NO_ID.as_slice(), after),
            _ => return None,
        };
        xattr.extend(tag_and_permissions);
        xattr.extend(id);
        rest = after;
    }
    Some(xattr)
}
