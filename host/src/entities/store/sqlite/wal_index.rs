//! Whether anything was committed to the file since it was last looked at, by any process: the header
//! of the index of the log says so, which SQLite itself compares at the beginning of each
//! transaction. (<https://www.sqlite.org/walformat.html>, "The WAL-Index Header")

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::open_file::OpenFile;
use crate::entities::commit::Mark;

/// The header's bytes. It is there twice: a writer changes the second one first.
const HEADER_BYTES: usize = size_of::<Mark>();

/// Where the header says that it was made.
const IS_MADE: usize = 12;

/// The file of the index, `FILE-shm`. It stays the same as long as this process has the database open.
pub(in super::super) struct WalIndex {
    /// Never closed: that would open the locks which this process has on it (POSIX), and which
    /// SQLite relies on.
    index: ManuallyDrop<File>,
    database: OpenFile,
}

impl WalIndex {
    /// # Errors
    /// If there is no index: nobody has the database open.
    pub(super) fn new(path: &Path, database: OpenFile) -> io::Result<Self> {
        // SQLite follows links before it names it.
        let mut name = path.canonicalize()?.into_os_string();
        name.push("-shm");
        let index = ManuallyDrop::new(File::open(name)?);
        Ok(Self { index, database })
    }

    /// As long as it stays the same, nothing is committed. `None`: it cannot be told now.
    pub(in super::super) fn mark(&self) -> Option<Mark> {
        self.database.check().ok()?;
        let mut headers = [0; 2 * HEADER_BYTES];
        self.index.read_exact_at(&mut headers, 0).ok()?;
        let (first, second) = headers.split_at(HEADER_BYTES);
        let is_whole = first == second && first[IS_MADE] == 1;
        is_whole.then(|| first.try_into().ok())?.map(Mark)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_mark_stays_until_somebody_commits() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("state.db");
        let [own, other] = [(); 2].map(|()| {
            let connection = Connection::open(&path).unwrap();
            connection
                .pragma_update(None, "journal_mode", "wal")
                .unwrap();
            connection
        });
        own.execute_batch("CREATE TABLE t (a)").unwrap();
        let index = WalIndex::new(&path, OpenFile::new(&path).unwrap()).unwrap();
        let mut before = index.mark().unwrap();
        for connection in [&own, &other] {
            let count = "SELECT count(*) FROM t";
            let _: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
            assert_eq!(index.mark(), Some(before));
            connection
                .execute_batch("INSERT INTO t VALUES (1)")
                .unwrap();
            assert_ne!(index.mark().unwrap(), before);
            before = index.mark().unwrap();
            // The log begins anew.
            let restart = "PRAGMA wal_checkpoint(RESTART)";
            let _: i64 = connection.query_row(restart, [], |row| row.get(0)).unwrap();
            connection.execute_batch("DELETE FROM t").unwrap();
            assert_ne!(index.mark().unwrap(), before);
            before = index.mark().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(index.mark(), None);
    }
}
