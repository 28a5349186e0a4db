//! What the two parties of a session say to each other.

use serde::Deserialize;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Refused, Store, Terms, now, written};
use crate::protocol::rendezvous::{ClientType, SignalInfo, SignalPost, SignalType};

/// Signals in one answer: more than a session may have.
const MOST_LISTED: i64 = 10_000;

/// Bytes of all signals of a session.
const MOST_BYTES: i64 = 1 << 20;

/// The two of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rendezvous) struct Parties {
    /// Who asks.
    pub initiator: i64,
    /// Who provides, once somebody does.
    pub target: Option<i64>,
}

impl Parties {
    /// Those of a row that begins with the two; 0 where nobody provides yet.
    fn of(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let target: i64 = row.try_get(1)?;
        Ok(Self {
            initiator: row.try_get(0)?,
            target: (target != 0).then_some(target),
        })
    }

    /// The other one, where this is one of the two.
    fn other(self, user: i64) -> Option<Option<i64>> {
        match user {
            user if user == self.initiator => Some(self.target),
            user if Some(user) == self.target => Some(Some(self.initiator)),
            _ => None,
        }
    }
}

/// How a session stands while nobody else changes it.
struct Locked {
    parties: Parties,
    signals: i64,
    /// Of all of them.
    bytes: i64,
    /// Which client of the target; empty where it has not said.
    claimed_by: String,
}

/// What became of a signal that was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rendezvous) struct Posted {
    /// Its number.
    pub id: i64,
    /// The session has left the list by it.
    pub claimed: bool,
}

impl Store {
    /// Takes a signal of one of the two parties. The first one of a Type1 makes it a party.
    pub(in crate::rendezvous) async fn signal(
        &self,
        user: i64,
        kind: ClientType,
        post: &SignalPost,
        terms: &Terms,
    ) -> Result<Posted, Refused> {
        let now = now();
        let mut work = self.write.begin().await?;
        let mut claimed = false;
        let client = post.client.clone().unwrap_or_default();
        let Locked {
            mut parties,
            claimed_by,
            signals,
            bytes,
        } = self.locked(&mut work, &post.session_id, now).await?;
        if parties.other(user).is_none() {
            match (kind, parties.target) {
                (ClientType::Provider, None) => {}
                (ClientType::Provider, Some(_)) => return Err(Refused::Claimed),
                _ => return Err(Refused::NoSession),
            }
            claimed = true;
            parties.target = Some(user);
        } else if parties.target == Some(user) && claimed_by != client {
            // Another process with the same token: one requester, one provider.
            return Err(Refused::Claimed);
        }
        if signals >= i64::from(terms.most_signals) {
            return Err(Refused::ManySignals(terms.most_signals));
        }
        let length = i64::try_from(post.signal_data.len()).unwrap_or(i64::MAX);
        if bytes.saturating_add(length) > MOST_BYTES {
            return Err(Refused::ManyBytes(MOST_BYTES));
        }
        let answered = post.signal_type == SignalType::Answer && user == parties.initiator;
        let (status, transfer) = match (claimed, answered) {
            (true, _) => ("claimed", "negotiating"),
            (_, true) => ("answered", "connecting"),
            _ => ("", ""),
        };
        sqlx::query(
            "UPDATE ice_sessions SET signals = signals + 1, updated_at = $1, expires_at = $2,
                 status = CASE WHEN $3 = '' THEN status ELSE $3 END, bytes = bytes + $4
             WHERE session_id = $5",
        )
        .bind(written(now))
        .bind(terms.until(now))
        .bind(status)
        .bind(length)
        .bind(post.session_id.clone())
        .execute(&mut *work)
        .await?;
        if claimed {
            sqlx::query(
                "UPDATE ice_sessions SET target_user_id = $1, target_client = $2
                 WHERE session_id = $3",
            )
            .bind(user)
            .bind(client)
            .bind(post.session_id.clone())
            .execute(&mut *work)
            .await?;
        }
        if !transfer.is_empty() {
            sqlx::query("UPDATE file_transfers SET status = $1 WHERE session_id = $2")
                .bind(transfer)
                .bind(post.session_id.clone())
                .execute(&mut *work)
                .await?;
        }
        let (index, mid) = line_of(post);
        let row = sqlx::query(
            "INSERT INTO ice_candidates (session_id, user_id, signal_type, candidate,
                 sdp_mline_index, sdp_mid, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        )
        .bind(post.session_id.clone())
        .bind(user)
        .bind(post.signal_type.as_str())
        .bind(post.signal_data.clone())
        .bind(index)
        .bind(mid)
        .bind(written(now))
        .fetch_one(&mut *work)
        .await?;
        let id = row.try_get(0)?;
        self.tell(&mut work, &format!("s{}", post.session_id))
            .await?;
        if claimed {
            self.tell(&mut work, "l").await?;
        }
        work.commit().await?;
        Ok(Posted { id, claimed })
    }

    /// The parties of an open session and how much they have said, with nobody else saying
    /// something in it until the transaction ends: numbers of signals then come in order.
    async fn locked(
        &self,
        work: &mut AnyConnection,
        session: &str,
        now: i64,
    ) -> Result<Locked, Refused> {
        let row = sqlx::query(self.either(
            "SELECT initiator_user_id, COALESCE(target_user_id, 0), signals, bytes, target_client
             FROM ice_sessions WHERE session_id = $1 AND expires_at > $2",
            "SELECT initiator_user_id, COALESCE(target_user_id, 0), signals, bytes, target_client
             FROM ice_sessions WHERE session_id = $1 AND expires_at > $2 FOR UPDATE",
        ));
        let row = row.bind(session.to_owned()).bind(now);
        let row = row.fetch_optional(work).await?.ok_or(Refused::NoSession)?;
        let parties = Parties::of(&row)?;
        Ok(Locked {
            parties,
            signals: row.try_get(2)?,
            bytes: row.try_get(3)?,
            claimed_by: row.try_get(4)?,
        })
    }

    /// Checks that this user is one of the parties of an open session, which lasts on by that.
    pub(in crate::rendezvous) async fn is_party(
        &self,
        user: i64,
        session: &str,
        terms: &Terms,
    ) -> Result<(), Refused> {
        let now = now();
        let row = sqlx::query(
            "SELECT initiator_user_id, COALESCE(target_user_id, 0), expires_at FROM ice_sessions
             WHERE session_id = $1 AND expires_at > $2",
        );
        let row = row.bind(session.to_owned()).bind(now);
        let row = row.fetch_optional(&self.read).await?;
        let row = row.ok_or(Refused::NoSession)?;
        let parties = Parties::of(&row)?;
        parties.other(user).ok_or(Refused::NoSession)?;
        let (until, later) = (terms.until(now), terms.until(now) - terms.step());
        if row.try_get::<i64, _>(2)? <= later {
            // Others who ask at the same time have the same in mind: one write is enough.
            let last = sqlx::query(
                "UPDATE ice_sessions SET expires_at = $1
                 WHERE session_id = $2 AND expires_at > $3 AND expires_at <= $4",
            );
            let last = last.bind(until).bind(session.to_owned());
            last.bind(now).bind(later).execute(&self.write).await?;
        }
        Ok(())
    }

    /// Ends a session of this user.
    pub(in crate::rendezvous) async fn end(&self, user: i64, session: &str) -> Result<(), Refused> {
        let mut work = self.write.begin().await?;
        let end = sqlx::query(
            "UPDATE ice_sessions SET expires_at = $1, updated_at = $2 WHERE session_id = $3
                 AND expires_at > $1 AND (initiator_user_id = $4 OR target_user_id = $4)",
        );
        let now = now();
        let end = end.bind(now).bind(written(now)).bind(session.to_owned());
        let ended = end.bind(user).execute(&mut *work).await?;
        if ended.rows_affected() == 0 {
            return Err(Refused::NoSession);
        }
        self.tell(&mut work, &format!("s{session}")).await?;
        self.tell(&mut work, "l").await?;
        work.commit().await?;
        Ok(())
    }

    /// What the other party has said after a signal's number. Reading takes nothing away.
    pub(in crate::rendezvous) async fn signals(
        &self,
        user: i64,
        session: &str,
        after: i64,
        terms: &Terms,
    ) -> Result<Vec<SignalInfo>, Refused> {
        self.is_party(user, session, terms).await?;
        let rows = sqlx::query(
            "SELECT id, signal_type, candidate, user_id FROM ice_candidates
             WHERE session_id = $1 AND id > $2 AND user_id <> $3 ORDER BY id LIMIT $4",
        );
        let rows = rows.bind(session.to_owned()).bind(after).bind(user);
        let rows = rows.bind(MOST_LISTED).fetch_all(&self.read).await?;
        let signal = |row: &AnyRow| -> Result<SignalInfo, Refused> {
            let kind: String = row.try_get(1)?;
            Ok(SignalInfo {
                id: row.try_get(0)?,
                session_id: session.to_owned(),
                signal_type: SignalType::of(&kind).unwrap_or(SignalType::Candidate),
                signal_data: row.try_get(2)?,
                from_client_id: row.try_get::<i64, _>(3)?.to_string(),
                to_client_id: user.to_string(),
            })
        };
        rows.iter().map(signal).collect()
    }
}

/// The media line that a candidate is for, where its data says so.
fn line_of(post: &SignalPost) -> (i64, String) {
    #[derive(Deserialize)]
    struct Candidate {
        #[serde(rename = "sdpMLineIndex", default)]
        index: Option<u16>,
        #[serde(rename = "sdpMid", default)]
        mid: Option<String>,
    }
    if post.signal_type != SignalType::Candidate {
        return (0, String::new());
    }
    let read = serde_json::from_str::<Candidate>(&post.signal_data).ok();
    read.map_or((0, String::new()), |read| {
        let mid = read.mid.unwrap_or_default();
        let fits = mid.len() <= 64 && !mid.contains('\0');
        let index = i64::from(read.index.unwrap_or(0));
        (index, if fits { mid } else { String::new() })
    })
}
