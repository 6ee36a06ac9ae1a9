//! Servers and tools that tests run.

use silt_export::{Export, ExportAddress, StopSignal, nbd::Listen};
use silt_testkit::nbd_client::NbdSession;
use silt_types::Result;
use silt_volume::BlockDevice;
use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    thread::JoinHandle,
};
use tempfile::TempDir;

/// A server on a Unix socket in a folder of its own. Stopped when dropped.
pub(crate) struct Running {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) socket: PathBuf,
    pub(crate) server: Arc<dyn Export>,
    pub(crate) stop: StopSignal,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    pub(crate) fn serve(device: Arc<dyn BlockDevice>) -> Running {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let socket = folder.path().join("nbd");
        let address = ExportAddress::Nbd(Listen::Unix(socket.clone()));
        let server: Arc<dyn Export> = Arc::from(address.bind().unwrap());
        Running::go_on(folder, socket, server, device)
    }

    /// Runs a server that is there already.
    pub(crate) fn go_on(
        folder: Arc<TempDir>,
        socket: PathBuf,
        server: Arc<dyn Export>,
        device: Arc<dyn BlockDevice>,
    ) -> Running {
        let stop = StopSignal::new().unwrap();
        let thread = std::thread::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            move || server.run(device, &stop)
        });
        Running { folder, socket, server, stop, thread: Some(thread) }
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// A client in the transmission phase.
    pub(crate) fn enter(&self, structured: bool) -> NbdSession {
        let mut session = NbdSession::connect(&self.socket).unwrap();
        session.enter(structured).unwrap();
        session
    }

    /// Waits until so many clients are served.
    pub(crate) fn wait_for_clients(&self, count: usize) {
        while self.server.clients() != count {
            std::thread::yield_now();
        }
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.stop.trigger();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until the server, told to by then, has ended well; what is left of it.
    pub(crate) fn ended(mut self) -> (Arc<TempDir>, PathBuf, Arc<dyn Export>) {
        self.thread.take().unwrap().join().unwrap().unwrap();
        (self.folder.clone(), self.socket.clone(), self.server.clone())
    }

    /// What [`Server::run`] answers, once it was told to stop.
    pub(crate) fn join(mut self) -> Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a tool to its end; `package` is what to install where it is missing.
pub(crate) fn run(package: &str, tool: &str, arguments: &[&str]) -> Output {
    let output = Command::new(tool).args(arguments).output();
    output
        .unwrap_or_else(|error| panic!("{tool} is needed: install the package {package} ({error})"))
}

/// As [`run`], of a tool that has to succeed.
pub(crate) fn succeed(package: &str, tool: &str, arguments: &[&str]) -> String {
    let output = run(package, tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{text}\n{errors}", output.status);
    text
}
