//! Lists come in pages.

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where to go on: [`Listed::next`] of the page before, empty for the first.
    pub token: String,
    /// Most entries; 0 means 500, and 1000 is the most.
    pub size: u32,
}

impl Page {
    /// A first page of at most `size` entries.
    pub fn first(size: u32) -> Self {
        Self { token: String::new(), size }
    }

    /// Most entries, with the default and the bound applied.
    pub fn limit(&self) -> i64 {
        match self.size {
            0 => 500,
            size => i64::from(size.min(1000)),
        }
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Token of the next page; `None` at the end.
    pub next: Option<String>,
}

impl<T> Listed<T> {
    /// Makes a page of the first of `items`; there must be one more than the page takes if another page follows.
    pub fn cut(mut items: Vec<T>, page: &Page, token: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(page.limit()).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(token);
        Self { items, next }
    }
}
