//! What a rendezvous keeps: users, sessions, what was said in them, and what became of transfers.
//! The same queries on SQLite, for one server, and on PostgreSQL, which several may share.

mod instances;
mod relays;
mod sessions;
mod signals;
mod sweep;
mod users;

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Connection, Executor, SqlSafeStr};

use crate::config::Database;
pub(super) use instances::{Here, InstanceId, Mail};
pub(super) use relays::Meeting;
pub(super) use sessions::Terms;

/// The channel on which servers that share a database tell each other that there is something.
pub(super) const CHANNEL: &str = "handout_rendezvous";
/// How long a request waits for a connection to the database.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that must be free on SQLite's disk, else the server is not well.
const ROOM: u64 = 256 << 10;
/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 16;
/// Connections that read from SQLite, besides the one that writes.
const READERS: u32 = 4;

/// The tables, step by step: for SQLite and for PostgreSQL.
const STEPS: &[(&str, &str, &str)] = &[
    (
        "sessions",
        include_str!("migrations/1-sqlite.sql"),
        include_str!("migrations/1-postgres.sql"),
    ),
    (
        "devices and relays",
        include_str!("migrations/2-sqlite.sql"),
        include_str!("migrations/2-postgres.sql"),
    ),
    (
        "whose rows and claims",
        include_str!("migrations/3-sqlite.sql"),
        include_str!("migrations/3-postgres.sql"),
    ),
];

/// Why there is no database to work with.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its file cannot be used.
    #[error("the database {} cannot be used: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server has it.
    #[error(
        "another rendezvous uses the database {}; end it, or let several share a PostgreSQL \
         database (rendezvous.serve.database)", .0.display()
    )]
    Taken(PathBuf),
    /// The database says no, or does not answer.
    #[error(
        "the rendezvous's database, {database}: {what} failed: {}{}", said(.source),
        advice(.source, database)
    )]
    Database {
        /// Which, without its password.
        database: String,
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// Its tables are of a newer program, or were changed by hand.
    #[error(
        "the tables of the rendezvous's database, {database}, do not fit this program: {source}; use \
         the version that made them, or another database (rendezvous.serve.database)"
    )]
    Tables {
        /// Which, without its password.
        database: String,
        /// What does not fit.
        source: MigrateError,
    },
}

/// An error as a person may want to read it.
fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::PoolTimedOut => "it does not answer in time".to_owned(),
        other => other.to_string(),
    }
}

/// True where the disk of the database takes nothing more: SQLITE_FULL, or PostgreSQL's disk_full.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "13" || code == "53100")
}

/// What a person can do.
fn advice(error: &sqlx::Error, database: &str) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    let file = database.strip_prefix("sqlite:").unwrap_or(database);
    match code.as_deref() {
        _ if is_full(error) => "; make room on its disk".to_owned(),
        // SQLITE_CORRUPT and SQLITE_NOTADB.
        Some("11" | "26") => format!(
            "; it is damaged: move {file} away, and start with an empty one (open sessions are \
             lost, nothing else)"
        ),
        // PostgreSQL's insufficient_privilege.
        Some("42501") => "; the role needs the right to make tables there".to_owned(),
        _ if database.starts_with("postgres") => {
            "; see that it runs and lets this role in (rendezvous.serve.database)".to_owned()
        }
        _ => String::new(),
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// There is no such session, for this user.
    #[error("there is no such session, or it is over, or it is between others")]
    NoSession,
    /// Another Type1 was first.
    #[error("somebody else provides for this session already")]
    Claimed,
    /// The user has enough of them.
    #[error(
        "this user has {0} open sessions already; they end some time after the last that was said \
         or asked in them"
    )]
    ManySessions(u32),
    /// The session has enough of them.
    #[error("this session has {0} signals already; start another")]
    ManySignals(u32),
    /// The session's signals are large enough.
    #[error("the signals of a session may have {0} bytes in all; start another")]
    ManyBytes(i64),
    /// The database does not do it.
    #[error("the database does not do it: {}", said(.0))]
    Database(#[from] sqlx::Error),
}

/// Which program the database is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// The database, for all threads.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) kind: Kind,
    read: AnyPool,
    /// SQLite has one writer at a time, so it gets one connection, and others wait in line.
    write: AnyPool,
    /// Where the file is.
    folder: Option<PathBuf>,
    /// Held for as long as this process uses the file.
    _lock: Option<std::fs::File>,
}

impl Store {
    /// Opens the database and brings its tables up to date.
    pub(super) async fn open(database: &Database) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        let name = format!("{database:?}");
        let failed = |what| {
            let database = name.clone();
            move |source| DatabaseError::Database {
                database,
                what,
                source,
            }
        };
        let store = match database {
            Database::Sqlite(path) => {
                let lock = take(path)?;
                let url = sqlite_url(path);
                try_out(&url, "SELECT COUNT(*) FROM sqlite_master")
                    .await
                    .map_err(failed("opening it"))?;
                let pool = |most| {
                    let options = AnyPoolOptions::new()
                        .max_connections(most)
                        .acquire_timeout(PATIENCE)
                        .idle_timeout(None)
                        .max_lifetime(None);
                    options.after_connect(|connection, _| Box::pin(prepare(connection)))
                };
                let write = pool(1).connect(&url).await;
                let write = write.map_err(failed("opening it"))?;
                let read = pool(READERS).connect(&url).await;
                Self {
                    kind: Kind::Sqlite,
                    read: read.map_err(failed("opening it"))?,
                    write,
                    folder: path.parent().map(Path::to_owned),
                    _lock: Some(lock),
                }
            }
            Database::Postgres(url) => {
                let options = AnyPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .acquire_timeout(PATIENCE);
                try_out(url, "SELECT 1")
                    .await
                    .map_err(failed("connecting"))?;
                let pool = options.connect(url).await.map_err(failed("connecting"))?;
                Self {
                    kind: Kind::Postgres,
                    read: pool.clone(),
                    write: pool,
                    folder: None,
                    _lock: None,
                }
            }
        };
        let made = migrations(store.kind).run(&store.write).await;
        made.map_err(|error| match error {
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
                failed("making its tables")(source)
            }
            source => DatabaseError::Tables {
                database: name.clone(),
                source,
            },
        })?;
        Ok(store)
    }

    /// True when the database answers, and takes what is written.
    pub(super) async fn answers(&self) -> bool {
        // A write that fits into what the file has already says nothing of the next one.
        if let Some(folder) = &self.folder
            && let Ok(disk) = rustix::fs::statvfs(folder)
            && disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM
        {
            tracing::error!(folder = %folder.display(), "the disk of the database is full: make room there");
            return false;
        }
        let asked = sqlx::query("UPDATE instances SET seen_at = seen_at").execute(&self.write);
        matches!(
            tokio::time::timeout(Duration::from_secs(2), asked).await,
            Ok(Ok(_))
        )
    }

    /// Ends all connections.
    pub(super) async fn close(&self) {
        let closing = async {
            self.read.close().await;
            self.write.close().await;
        };
        let _ = tokio::time::timeout(PATIENCE, closing).await;
    }

    /// The query that this database needs.
    fn either(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.kind {
            Kind::Sqlite => sqlite,
            Kind::Postgres => postgres,
        }
    }

    /// Tells all servers on this database that there is something, when the transaction is done.
    async fn tell(&self, on: &mut AnyConnection, word: &str) -> Result<(), sqlx::Error> {
        if self.kind == Kind::Postgres {
            let told = sqlx::query("SELECT pg_notify($1, $2)");
            told.bind(CHANNEL).bind(word.to_owned()).execute(on).await?;
        }
        Ok(())
    }
}

/// One connection, whose fault is told as it is: a pool tries until it is late, and says only that.
async fn try_out(url: &str, query: &'static str) -> Result<(), sqlx::Error> {
    let trying = async {
        let mut connection = AnyConnection::connect(url).await?;
        sqlx::query(query).execute(&mut connection).await?;
        connection.close().await
    };
    let tried = tokio::time::timeout(PATIENCE, trying).await;
    tried.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Waits for locks, and lets readers read while somebody writes. What a killed process has written
/// is kept; a power cut may cost the last moments.
async fn prepare(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute("PRAGMA busy_timeout = 5000").await?;
    connection.execute("PRAGMA journal_mode = WAL").await?;
    connection.execute("PRAGMA synchronous = NORMAL").await?;
    connection.execute("PRAGMA foreign_keys = ON").await?;
    Ok(())
}

fn migrations(kind: Kind) -> Migrator {
    let steps = STEPS.iter().zip(1..);
    let steps = steps.map(|((name, sqlite, postgres), version)| {
        let sql = match kind {
            Kind::Sqlite => sqlite,
            Kind::Postgres => postgres,
        };
        let name = Cow::Borrowed(*name);
        Migration::new(
            version,
            name,
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(steps.collect())
}

/// Makes the file for its owner alone, and takes the lock beside it.
fn take(path: &Path) -> Result<std::fs::File, DatabaseError> {
    let failed = |source| DatabaseError::File {
        path: path.to_owned(),
        source,
    };
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).open(path)
    };
    open(path).map_err(failed)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let lock = open(Path::new(&beside)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(DatabaseError::Taken(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn sqlite_url(path: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

/// Unix milliseconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis().try_into().unwrap_or(i64::MAX))
}

/// A time as it stands in the tables: RFC 3339, UTC.
fn written(ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
