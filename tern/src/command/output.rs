//! A stream of the command's, on its way to standard output or standard error. A guest that sends more than it may is found out.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tern_command_protocol::{Stream, WINDOW};

use super::outbox::Outbox;
use crate::terminal::write_all;
use tern_engine::start_thread;

/// The way of one stream.
pub(super) struct Output {
    sender: Sender<Vec<u8>>,
    /// Bytes that were not yet written.
    waiting: Arc<AtomicU32>,
    failure: Arc<Mutex<Option<io::Error>>>,
    writer: JoinHandle<()>,
}

impl Output {
    pub(super) fn start(
        stream: Stream,
        target: BorrowedFd<'static>,
        outbox: Arc<Outbox>,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicU32::new(0));
        let failure = Arc::new(Mutex::new(None));
        let (left, failed) = (Arc::clone(&waiting), Arc::clone(&failure));
        let write = move || {
            let mut is_gone = false;
            for data in receiver {
                let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
                if !is_gone && let Err(error) = write_all(target, &data) {
                    is_gone = true;
                    // The command learns of it as it would here; who reads no more has seen enough.
                    outbox.gone(stream);
                    let error = io::Error::from(error);
                    if error.kind() != io::ErrorKind::BrokenPipe {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).replace(error);
                    }
                }
                left.fetch_sub(count, Ordering::Relaxed);
                if !is_gone {
                    outbox.credit(stream, count);
                }
            }
        };
        let writer = start_thread("command-output", write)?;
        Ok(Self { sender, waiting, failure, writer })
    }

    /// Takes what came; `false` if it is more than may come.
    pub(super) fn push(&self, data: Vec<u8>) -> bool {
        let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let before = self.waiting.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) > WINDOW {
            return false;
        }
        // The writer is there as long as this is.
        let _ = self.sender.send(data);
        true
    }

    /// Waits until all is written.
    pub(super) fn finish(self) -> Option<io::Error> {
        drop(self.sender);
        let _ = self.writer.join();
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
