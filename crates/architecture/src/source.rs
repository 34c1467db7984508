//! Crates as trees of modules, with what each of them imports and names. What is compiled for tests only is
//! left out: tests may name what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A crate of ours.
pub struct Crate {
    pub name: String,
    /// What its Cargo.toml depends on, tests apart; underscores instead of dashes.
    pub dependencies: BTreeSet<String>,
    /// Lines of each file before its tests.
    pub files: BTreeMap<PathBuf, usize>,
    /// By their paths, `["crate", "engine", "read"]`.
    pub modules: BTreeMap<Vec<String>, Module>,
}

/// A module, without those inside it.
#[derive(Default)]
pub struct Module {
    /// The file that it stands in, relative to the crate's folder.
    pub file: PathBuf,
    /// `use` declarations: what the module calls it, and what it is. A glob is called `*`.
    pub imports: Vec<(String, Vec<String>)>,
    /// Paths of two segments and more in code, as written.
    pub paths: Vec<Vec<String>>,
    /// Macros that it calls.
    pub macros: BTreeSet<String>,
    /// Functions, those of types as `Type::function`.
    pub functions: BTreeSet<String>,
    /// Whether it has an `unsafe` block, function or implementation, or allows them.
    pub has_unsafe: bool,
}

/// Reads all crates below `folder`.
pub fn load_workspace(folder: &Path) -> anyhow::Result<Vec<Crate>> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    folders.sort();
    folders.iter().map(|folder| load_crate(folder)).collect()
}

fn load_crate(folder: &Path) -> anyhow::Result<Crate> {
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))
        .with_context(|| format!("{} has no Cargo.toml", folder.display()))?
        .parse()?;
    let name = manifest["package"]["name"].as_str().context("a package without a name")?;
    let dependencies = manifest.get("dependencies").and_then(|table| table.as_table());
    let roots = ["src/lib.rs", "src/main.rs"];
    let Some(root) = roots.iter().find(|file| folder.join(file).exists()) else {
        bail!("{name} has neither src/lib.rs nor src/main.rs")
    };
    let mut loaded = Crate {
        name: name.to_owned(),
        dependencies: dependencies
            .map(|table| table.keys().map(|key| key.replace('-', "_")).collect())
            .unwrap_or_default(),
        files: BTreeMap::new(),
        modules: BTreeMap::new(),
    };
    load_file(&mut loaded, folder, Path::new(root), vec!["crate".to_owned()])?;
    Ok(loaded)
}

fn load_file(
    loaded: &mut Crate,
    folder: &Path,
    file: &Path,
    path: Vec<String>,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(folder.join(file))
        .with_context(|| format!("{}: {}", loaded.name, file.display()))?;
    let lines = text.lines().take_while(|line| !line.contains("#[cfg(test)]")).count();
    loaded.files.insert(file.to_owned(), lines);
    let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    load_items(loaded, folder, file, path, (&parsed.attrs, &parsed.items))
}

/// Takes in the items of a module, and the modules in it.
pub fn load_items(
    loaded: &mut Crate,
    folder: &Path,
    file: &Path,
    path: Vec<String>,
    (attributes, items): (&[syn::Attribute], &[syn::Item]),
) -> anyhow::Result<()> {
    let mut collector =
        Collector { module: Module { file: file.to_owned(), ..Module::default() }, of_type: None };
    attributes.iter().for_each(|attribute| collector.visit_attribute(attribute));
    for item in items {
        let syn::Item::Mod(inner) = item else {
            collector.visit_item(item);
            continue;
        };
        if is_test_only(&inner.attrs) {
            continue;
        }
        let mut below = path.clone();
        below.push(inner.ident.to_string());
        match &inner.content {
            Some((_, items)) => {
                load_items(loaded, folder, file, below, (&inner.attrs, items))?;
            }
            None => {
                let file = file_of(folder, file, &path, inner)?;
                load_file(loaded, folder, &file, below)?;
            }
        }
    }
    loaded.modules.insert(path, collector.module);
    Ok(())
}

/// The file of `mod name;`, as the compiler looks for it.
fn file_of(
    folder: &Path,
    from: &Path,
    path: &[String],
    module: &syn::ItemMod,
) -> anyhow::Result<PathBuf> {
    let beside = from.parent().unwrap_or(Path::new(""));
    for attribute in &module.attrs {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && attribute.path().is_ident("path")
            && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value
        {
            return Ok(beside.join(text.value()));
        }
    }
    let stem = from.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let below = match ["lib", "main", "mod"].contains(&stem) || path.len() == 1 {
        true => beside.to_owned(),
        false => beside.join(stem),
    };
    let name = module.ident.to_string();
    let candidates = [below.join(format!("{name}.rs")), below.join(&name).join("mod.rs")];
    match candidates.iter().find(|file| folder.join(file).exists()) {
        Some(file) => Ok(file.clone()),
        None => bail!("the file of module {name} of {} wasn't found", from.display()),
    }
}

/// `#[cfg(test)]`, also within `all(...)`, and `#[test]`.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if needs_test(list.tokens.clone()))
    })
}

fn needs_test(condition: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = condition.into_iter().collect();
    match tokens.as_slice() {
        [TokenTree::Ident(word)] => word == "test",
        [TokenTree::Ident(word), TokenTree::Group(group)] if word == "all" => {
            let mut parts = vec![TokenStream::new()];
            for token in group.stream() {
                match (is_comma(&token), parts.last_mut()) {
                    (false, Some(part)) => part.extend([token]),
                    _ => parts.push(TokenStream::new()),
                }
            }
            parts.into_iter().any(needs_test)
        }
        _ => false,
    }
}

fn is_comma(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')
}

/// Collects what a module's items import and name.
struct Collector {
    module: Module,
    of_type: Option<String>,
}

impl Collector {
    fn import(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, before.clone()));
            }
            syn::UseTree::Glob(_) => self.module.imports.push(("*".to_owned(), before)),
            syn::UseTree::Name(name) => self.import_as(before, &name.ident, &name.ident),
            syn::UseTree::Rename(name) => self.import_as(before, &name.ident, &name.rename),
        }
    }

    fn import_as(&mut self, mut path: Vec<String>, what: &syn::Ident, name: &syn::Ident) {
        if what != "self" {
            path.push(what.to_string());
        }
        let name = if name == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            name.to_string()
        };
        self.module.imports.push((name, path));
    }

    /// What a macro is given isn't parsed: every `a::b` in it counts.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Ident(word) => {
                    if colons < 2 {
                        self.take_path(std::mem::take(&mut path));
                    }
                    if word == "unsafe" {
                        self.module.has_unsafe = true;
                    }
                    path.push(word.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => self.scan(group.stream()),
                _ => {}
            }
            colons = 0;
            self.take_path(std::mem::take(&mut path));
        }
        self.take_path(path);
    }

    fn take_path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.module.paths.push(path);
        }
    }

    fn take_function(&mut self, name: &syn::Ident) {
        let name = match &self.of_type {
            Some(of) => format!("{of}::{name}"),
            None => name.to_string(),
        };
        self.module.functions.insert(name);
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            // A module within a function.
            syn::Item::Mod(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test_only(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, Vec::new());
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
        self.module.imports.push((name.to_string(), vec![item.ident.to_string()]));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.take_path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let name = called.path.segments.last().map(|last| last.ident.to_string());
        self.module.macros.extend(name);
        self.visit_path(&called.path);
        self.scan(called.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let allows = ["allow", "expect"].iter().any(|word| attribute.path().is_ident(word));
        if let (true, syn::Meta::List(list)) = (allows, &attribute.meta) {
            let mut words = list.tokens.clone().into_iter();
            self.module.has_unsafe |= words.any(|token| token.to_string() == "unsafe_code");
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.module.has_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.module.has_unsafe |= signature.unsafety.is_some();
        self.take_function(&signature.ident);
        let outer = self.of_type.take();
        visit::visit_signature(self, signature);
        self.of_type = outer;
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.module.has_unsafe |= item.unsafety.is_some();
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let outer = std::mem::replace(&mut self.of_type, name);
        visit::visit_item_impl(self, item);
        self.of_type = outer;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let outer = self.of_type.replace(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.of_type = outer;
    }
}
