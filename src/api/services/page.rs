//! Pages of a list: the token of the next page is the key of the last row, in hex, so that clients
//! do not build on it.

use crate::api::{
    ApiError,
    table::{Page, Row, Table},
};

const DEFAULT_SIZE: usize = 100;
const MAX_SIZE: usize = 500;

/// Reads the page that a request asks for; returns it with the token of the next one.
pub(super) fn read<R: Row>(
    table: &Table<R>,
    page_size: i32,
    page_token: &str,
    wanted: impl Fn(&R) -> bool,
) -> Result<(Page<R>, String), ApiError> {
    let size = match usize::try_from(page_size) {
        Ok(0) => DEFAULT_SIZE,
        Ok(size) => size.min(MAX_SIZE),
        Err(_) => return Err(ApiError::invalid("page_size", "it must not be negative")),
    };
    let bad_token = || ApiError::invalid("page_token", "it must be the next_page_token of an answer");
    let after = match page_token {
        "" => None,
        token => Some(String::from_utf8(hex::decode(token).map_err(|_| bad_token())?).map_err(|_| bad_token())?),
    };
    let page = table.page(after.as_deref(), size, wanted);
    let next = page.more_after.as_ref().map(hex::encode).unwrap_or_default();
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::NodeSummary;

    #[test]
    fn tokens_lead_through_all_pages() {
        let table = Table::default();
        table.replace_all((0..5).map(|n| NodeSummary { node: format!("n{n}"), ..Default::default() }));
        let (mut token, mut names) = (String::new(), Vec::new());
        loop {
            let (page, next) = read(&table, 2, &token, |_| true).unwrap();
            names.extend(page.rows.iter().map(|row| row.node.clone()));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(names, ["n0", "n1", "n2", "n3", "n4"]);
        assert!(read(&table, -1, "", |_| true).is_err());
        assert!(read(&table, 0, "xyz", |_| true).is_err());
    }
}
