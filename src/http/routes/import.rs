//! Many recommendations in one request, streamed.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::DbError;
use crate::domain::body;
use crate::domain::priority::Priority;
use crate::domain::recommendation::Draft;
use crate::http::body::{next_chunk, parse};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::ndjson::{Line, Lines};
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// Rows in one transaction: large enough to share its cost, small enough that others' saves pass between.
const BATCH: usize = 500;
/// Refused lines named in the answer; the count is of all.
const MAX_REFUSED: usize = 1_000;

/// The counts of an import.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "imported": 2, "refused": 1, "errors": [{ "line": 3, "message": "rating must be a whole number from 1 to 5" }]
}))]
pub struct ImportBody {
    /// Lines saved.
    pub imported: u64,
    /// Lines refused; the rest was saved all the same.
    pub refused: u64,
    /// The first thousand refused lines.
    pub errors: Vec<RefusedLine>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RefusedLine {
    /// From 1; blank lines count.
    pub line: u64,
    pub message: String,
}

struct Import {
    state: AppState,
    acting: Acting,
    /// With the numbers of their lines.
    drafts: Vec<(u64, Draft)>,
    counts: ImportBody,
}

/// Import many recommendations
///
/// Newline-delimited JSON, each line a body of save. Lines that are refused are named and leave the others
/// alone. The lines are embedded at low priority unless they say otherwise, so that users' saves go first.
#[utoipa::path(
    post, path = "/api/recommendations/import", tag = "recommendations",
    params(super::docs::ActingUser),
    request_body(
        content = Option<String>, content_type = "application/x-ndjson", description = "One save body a line; blank lines are skipped",
        example = json!(super::docs::IMPORT_EXAMPLE)
    ),
    responses(
        (status = 200, description = "What was saved and what was refused", body = Envelope<ImportBody>),
        (status = 400, description = "The body could not be read to its end", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
    )
)]
pub async fn import(
    State(state): State<AppState>,
    acting: Acting,
    body: Body,
) -> Result<impl IntoResponse, ApiError> {
    let (limit, patience) = (state.body_limit, state.timeout);
    let mut import = Import { state, acting, drafts: Vec::with_capacity(BATCH), counts: ImportBody::default() };
    let mut lines = Lines::new(limit);
    let mut stream = body.into_data_stream();
    while let Some(chunk) = next_chunk(&mut stream, patience).await? {
        for line in lines.push(&chunk) {
            import.take(line).await?;
        }
    }
    if let Some(line) = lines.finish() {
        import.take(line).await?;
    }
    import.save().await?;
    let counts = import.counts;
    tracing::info!(imported = counts.imported, refused = counts.refused, "imported");
    let message = format!("{} recommendations imported, {} lines refused", counts.imported, counts.refused);
    Ok(Envelope::new(counts, message))
}

impl Import {
    async fn take(&mut self, line: Line) -> Result<(), ApiError> {
        match self.read(&line) {
            Ok(draft) => self.drafts.push((line.number, draft)),
            Err(error) => self.refuse(line.number, error.to_string()),
        }
        if self.drafts.len() >= BATCH { self.save().await } else { Ok(()) }
    }

    fn read(&self, line: &Line) -> Result<Draft, ApiError> {
        let text = line.text.as_ref().ok_or(ApiError::TooLarge(self.state.body_limit))?;
        let body = parse(text)?;
        let author = self.acting.author_of_line(&body)?;
        Ok(body::draft(body, author, self.state.db.model().dimensions)?)
    }

    fn refuse(&mut self, line: u64, message: String) {
        self.counts.refused += 1;
        if self.counts.errors.len() < MAX_REFUSED {
            self.counts.errors.push(RefusedLine { line, message });
        }
    }

    async fn save(&mut self) -> Result<(), ApiError> {
        if self.drafts.is_empty() {
            return Ok(());
        }
        let lines = std::mem::replace(&mut self.drafts, Vec::with_capacity(BATCH));
        let drafts = lines.iter().map(|(_, draft)| draft.clone()).collect();
        match self.state.db.save_all(drafts, Priority::Low).await {
            Ok(saved) => self.counts.imported += saved.len() as u64,
            Err(DbError::Refused(_) | DbError::Clash(_)) => self.save_one_by_one(lines).await?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The tables' own rules refuse one of them at least: the guilty lines are named, the others saved.
    async fn save_one_by_one(&mut self, lines: Vec<(u64, Draft)>) -> Result<(), ApiError> {
        for (line, draft) in lines {
            match self.state.db.save_all(vec![draft], Priority::Low).await {
                Ok(saved) => self.counts.imported += saved.len() as u64,
                Err(error @ (DbError::Refused(_) | DbError::Clash(_))) => self.refuse(line, error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
