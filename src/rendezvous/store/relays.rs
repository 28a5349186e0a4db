//! Relayed links: at which server their ends meet, how much a user may still send, and what became
//! of a session whose file goes that way.

use sqlx::Row;

use super::instances::alive_since;
use super::{InstanceId, Kind, Refused, Store, now, written};

/// Where the ends of a relayed link meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rendezvous) enum Meeting {
    /// At this server.
    Here,
    /// At another one, which others reach there; empty where it does not say.
    There(String),
}

fn today() -> String {
    let day = written(now());
    day.get(..10).unwrap_or_default().to_owned()
}

impl Store {
    /// Where the ends of this link meet: here, unless the first one came to another server.
    pub(in crate::rendezvous) async fn meet(
        &self,
        ours: &InstanceId,
        relay: &str,
    ) -> Result<Meeting, Refused> {
        if self.kind == Kind::Sqlite {
            return Ok(Meeting::Here);
        }
        // Whoever is first has the row; one of a server that is gone is taken over.
        sqlx::query(
            "INSERT INTO relay_places (relay_id, instance_id) VALUES ($1, $2)
             ON CONFLICT (relay_id) DO UPDATE SET instance_id = excluded.instance_id
             WHERE NOT EXISTS (SELECT 1 FROM instances i
                 WHERE i.instance_id = relay_places.instance_id AND i.seen_at >= $3)",
        )
        .bind(relay.to_owned())
        .bind(ours.0.clone())
        .bind(alive_since())
        .execute(&self.write)
        .await?;
        let row = sqlx::query(
            "SELECT r.instance_id, COALESCE(i.public_url, '') FROM relay_places r
                 LEFT JOIN instances i ON i.instance_id = r.instance_id
             WHERE r.relay_id = $1",
        );
        let row = row
            .bind(relay.to_owned())
            .fetch_optional(&self.write)
            .await?;
        let Some(row) = row else {
            return Ok(Meeting::Here);
        };
        match row.try_get::<String, _>(0)? == ours.0 {
            true => Ok(Meeting::Here),
            false => Ok(Meeting::There(row.try_get(1)?)),
        }
    }

    /// Nobody meets here any more.
    pub(in crate::rendezvous) async fn part(
        &self,
        ours: &InstanceId,
        relay: &str,
    ) -> Result<(), Refused> {
        if self.kind == Kind::Postgres {
            sqlx::query("DELETE FROM relay_places WHERE relay_id = $1 AND instance_id = $2")
                .bind(relay.to_owned())
                .bind(ours.0.clone())
                .execute(&self.write)
                .await?;
        }
        Ok(())
    }

    /// How many bytes the relayed links of a user have carried today.
    pub(in crate::rendezvous) async fn relayed_today(&self, user: i64) -> Result<u64, Refused> {
        let row = sqlx::query("SELECT bytes FROM relay_usage WHERE user_id = $1 AND day = $2");
        let row = row.bind(user).bind(today()).fetch_optional(&self.read);
        let bytes: i64 = row.await?.map_or(Ok(0), |row| row.try_get(0))?;
        Ok(bytes.try_into().unwrap_or(0))
    }

    /// Counts bytes for a user, and tells how many it is today.
    pub(in crate::rendezvous) async fn relayed(
        &self,
        user: i64,
        bytes: u64,
    ) -> Result<u64, Refused> {
        let row = sqlx::query(
            "INSERT INTO relay_usage (user_id, day, bytes) VALUES ($1, $2, $3)
             ON CONFLICT (user_id, day) DO UPDATE SET bytes = relay_usage.bytes + excluded.bytes
             RETURNING bytes",
        );
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let row = row.bind(user).bind(today()).bind(bytes);
        let mut work = self.write.begin().await?;
        let bytes: i64 = row.fetch_one(&mut *work).await?.try_get(0)?;
        work.commit().await?;
        Ok(bytes.try_into().unwrap_or(0))
    }

    /// What becomes of the file of a session that goes through this server.
    pub(in crate::rendezvous) async fn transfer_is(
        &self,
        session: &str,
        status: &'static str,
        done: bool,
    ) -> Result<(), Refused> {
        let change = match done {
            true => {
                let change = sqlx::query(
                    "UPDATE file_transfers SET status = $1, completed_at = $3
                     WHERE session_id = $2",
                );
                change
                    .bind(status)
                    .bind(session.to_owned())
                    .bind(written(now()))
            }
            false => {
                let change =
                    sqlx::query("UPDATE file_transfers SET status = $1 WHERE session_id = $2");
                change.bind(status).bind(session.to_owned())
            }
        };
        change.execute(&self.write).await?;
        Ok(())
    }

    /// Forgets how much was relayed on earlier days.
    pub(in crate::rendezvous) async fn forget_days(&self) -> Result<(), Refused> {
        let old = sqlx::query("DELETE FROM relay_usage WHERE day < $1");
        old.bind(today()).execute(&self.write).await?;
        Ok(())
    }
}
