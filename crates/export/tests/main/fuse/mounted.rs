//! Disks that are mounted for a test.

use silt_export::{
    Export, ExportAddress, StopSignal,
    fuse::{Access, FileAddress},
};
use silt_types::Result;
use silt_volume::BlockDevice;
use std::{path::PathBuf, sync::Arc, thread::JoinHandle};
use tempfile::TempDir;

/// A disk as a file in a folder of its own. Unmounted when dropped.
pub(super) struct Mounted {
    pub(super) folder: TempDir,
    pub(super) file: PathBuf,
    pub(super) server: Arc<dyn Export>,
    pub(super) stop: StopSignal,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Mounted {
    pub(super) fn serve(device: Arc<dyn BlockDevice>) -> Mounted {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        let address = FileAddress { path: file.clone(), access: Access::Owner };
        let server: Arc<dyn Export> = Arc::from(ExportAddress::Fuse(address).bind().unwrap());
        let stop = StopSignal::new().unwrap();
        let thread = std::thread::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            move || server.run(device, &stop)
        });
        Mounted { folder, file, server, stop, thread: Some(thread) }
    }

    /// The path as an argument.
    pub(super) fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.trigger();
        self.thread.take().unwrap().join().unwrap()
    }

    /// What the server answers once somebody else made it end.
    pub(super) fn join(mut self) -> Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
