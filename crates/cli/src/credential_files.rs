//! Where credentials for registries are looked for: where docker and podman keep them.

use std::{env, path::PathBuf};

/// The files, the one that counts most first; `$REGISTRY_AUTH_FILE` alone where that is set.
pub(crate) fn credential_files() -> Vec<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    if let Some(file) = folder("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = |below: &str| folder("HOME").map(|home| home.join(below));
    let podman = [folder("XDG_RUNTIME_DIR"), folder("XDG_CONFIG_HOME").or_else(|| home(".config"))];
    let podman = podman.into_iter().flatten().map(|folder| folder.join("containers/auth.json"));
    let docker = folder("DOCKER_CONFIG").or_else(|| home(".docker"));
    podman.chain(docker.map(|folder| folder.join("config.json"))).collect()
}
