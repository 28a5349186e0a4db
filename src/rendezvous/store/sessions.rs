//! Sessions: begun by who asks, listed for who provides.

use std::time::Duration;

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Refused, Store, now, written};
use crate::protocol::rendezvous::{Initiate, SessionInfo, SessionStatus};

/// Sessions in one list.
const MOST_LISTED: i64 = 500;
/// Bytes of the parameters of all sessions in one list.
const MOST_BYTES: usize = 1 << 20;

/// A session's end is put off by those who ask no more often than this.
const STEP: Duration = Duration::from_secs(60);

/// What holds for sessions.
#[derive(Debug, Clone)]
pub(in crate::rendezvous) struct Terms {
    /// How long a session lasts after the last that was said or asked in it.
    pub lasts: Duration,
    /// Open ones of one user.
    pub most: u32,
    /// Signals of one.
    pub most_signals: u32,
}

impl Terms {
    pub(super) fn until(&self, now: i64) -> i64 {
        now.saturating_add(self.lasts.as_millis().try_into().unwrap_or(i64::MAX))
    }

    /// Asking for signals puts a session's end off by at least so many milliseconds or not at all,
    /// so that who asks often costs few writes.
    pub(super) fn step(&self) -> i64 {
        let step = (self.lasts / 4).min(STEP);
        step.as_millis().try_into().unwrap_or(i64::MAX)
    }
}

impl Store {
    /// Begins a session.
    pub(in crate::rendezvous) async fn initiate(
        &self,
        user: i64,
        asked: Initiate,
        terms: &Terms,
    ) -> Result<SessionInfo, Refused> {
        let (id, now) = (new_id()?, now());
        let created = written(now);
        let mut work = self.write.begin().await?;
        // Two requests of one user at once are counted one after the other.
        let one_by_one = self.either(
            "SELECT id FROM users WHERE id = $1",
            "SELECT id FROM users WHERE id = $1 FOR UPDATE",
        );
        sqlx::query(one_by_one)
            .bind(user)
            .execute(&mut *work)
            .await?;
        let open = sqlx::query(
            "SELECT COUNT(*) FROM ice_sessions WHERE initiator_user_id = $1 AND expires_at > $2",
        );
        let open = open.bind(user).bind(now).fetch_one(&mut *work).await?;
        if open.try_get::<i64, _>(0)? >= i64::from(terms.most) {
            return Err(Refused::ManySessions(terms.most));
        }
        let device = asked.device_id.as_ref().map_or("", |id| id.as_str());
        sqlx::query(
            "INSERT INTO ice_sessions (session_id, initiator_user_id, initiator_client_type,
                 target_client_type, status, created_at, updated_at, expires_at, device_id)
             VALUES ($1, $2, 2, 1, 'pending', $3, $3, $4, $5)",
        )
        .bind(id.clone())
        .bind(user)
        .bind(created.clone())
        .bind(terms.until(now))
        .bind(device.to_owned())
        .execute(&mut *work)
        .await?;
        sqlx::query(
            "INSERT INTO file_transfers (session_id, file_name, file_size, file_type, request_type,
                 parameters, status, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7)",
        )
        .bind(id.clone())
        .bind(asked.file_name.clone())
        .bind(i64::try_from(asked.file_size).unwrap_or(i64::MAX))
        .bind(asked.file_type.clone())
        .bind(asked.request_type.clone())
        .bind(asked.parameters.clone())
        .bind(created.clone())
        .execute(&mut *work)
        .await?;
        self.tell(&mut work, "l").await?;
        work.commit().await?;
        Ok(SessionInfo {
            session_id: id,
            initiator_user_id: user.to_string(),
            target_user_id: String::new(),
            request_type: asked.request_type,
            parameters: asked.parameters,
            status: SessionStatus::Pending,
            file_name: asked.file_name,
            file_type: asked.file_type,
            created_at: created,
            device_id: asked.device_id,
        })
    }

    /// Sessions that wait for somebody who provides, the oldest first: of some types, parted by
    /// commas, where any is named; those after a session where one is.
    pub(in crate::rendezvous) async fn waiting(
        &self,
        kinds: &str,
        after: &str,
    ) -> Result<Vec<SessionInfo>, Refused> {
        let rows = sqlx::query(self.either(
            "SELECT s.session_id, s.initiator_user_id, s.created_at, s.device_id, t.request_type,
                 t.parameters, t.file_name, t.file_type
             FROM ice_sessions s JOIN file_transfers t ON t.session_id = s.session_id
             WHERE s.status = 'pending' AND s.expires_at > $1
                 AND ($2 = '' OR instr(',' || $2 || ',', ',' || t.request_type || ',') > 0)
                 AND s.id > COALESCE(
                     (SELECT a.id FROM ice_sessions a WHERE a.session_id = $3), 0)
             ORDER BY s.id LIMIT $4",
            "SELECT s.session_id, s.initiator_user_id, s.created_at, s.device_id, t.request_type,
                 t.parameters, t.file_name, t.file_type
             FROM ice_sessions s JOIN file_transfers t ON t.session_id = s.session_id
             WHERE s.status = 'pending' AND s.expires_at > $1
                 AND ($2 = '' OR t.request_type = ANY(string_to_array($2, ',')))
                 AND s.id > COALESCE(
                     (SELECT a.id FROM ice_sessions a WHERE a.session_id = $3), 0)
             ORDER BY s.id LIMIT $4",
        ));
        let rows = rows.bind(now()).bind(kinds.to_owned());
        let rows = rows.bind(after.to_owned()).bind(MOST_LISTED);
        let mut rows = rows.fetch(&self.read);
        let (mut list, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            let session = pending(&row)?;
            bytes += session.parameters.len();
            if bytes > MOST_BYTES {
                break;
            }
            list.push(session);
        }
        Ok(list)
    }

    /// How many sessions are open.
    pub(in crate::rendezvous) async fn open_sessions(&self) -> Result<i64, Refused> {
        let open = sqlx::query("SELECT COUNT(*) FROM ice_sessions WHERE expires_at > $1");
        let open = open.bind(now()).fetch_one(&self.read).await?;
        Ok(open.try_get(0)?)
    }
}

fn pending(row: &AnyRow) -> Result<SessionInfo, sqlx::Error> {
    let device: String = row.try_get(3)?;
    Ok(SessionInfo {
        session_id: row.try_get(0)?,
        initiator_user_id: row.try_get::<i64, _>(1)?.to_string(),
        target_user_id: String::new(),
        created_at: row.try_get(2)?,
        device_id: device.parse().ok(),
        request_type: row.try_get(4)?,
        parameters: row.try_get(5)?,
        file_name: row.try_get(6)?,
        file_type: row.try_get(7)?,
        status: SessionStatus::Pending,
    })
}

/// A random UUID (version 4).
fn new_id() -> Result<String, sqlx::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}
