//! Users: a subject of tokens, in one of its roles.

use sqlx::Row;

use super::{Refused, Store, now, written};
use crate::protocol::rendezvous::ClientType;

impl Store {
    /// The number of a user, who is on record from now on.
    pub(in crate::rendezvous) async fn user(
        &self,
        subject: &str,
        kind: ClientType,
    ) -> Result<i64, Refused> {
        let kind = i64::from(u8::from(kind));
        let found = sqlx::query("SELECT id FROM users WHERE subject = $1 AND client_type = $2")
            .bind(subject.to_owned())
            .bind(kind)
            .fetch_optional(&self.read)
            .await?;
        if let Some(row) = found {
            return Ok(row.try_get(0)?);
        }
        // Only what is committed is a user's number: a disk that is full says so at the commit, after
        // the row was shown, and then the number would be given to somebody else.
        let mut work = self.write.begin().await?;
        // Another server may have been faster.
        let row = sqlx::query(
            "INSERT INTO users (subject, client_type, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (subject, client_type) DO UPDATE SET subject = excluded.subject
             RETURNING id",
        );
        let row = row.bind(subject.to_owned()).bind(kind).bind(written(now()));
        let id = row.fetch_one(&mut *work).await?.try_get(0)?;
        work.commit().await?;
        Ok(id)
    }
}
