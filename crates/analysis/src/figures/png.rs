//! SVG text to PNG bytes.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};

use super::Error;

/// The fonts come with the program: the picture is the same on every machine.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    fonts.load_font_data(notosans::REGULAR_TTF.to_vec());
    fonts.load_font_data(notosans::BOLD_TTF.to_vec());
    fonts.set_sans_serif_family("Noto Sans");
    Arc::new(fonts)
});

/// The picture of a figure as PNG bytes, `scale` pixels for each of the figure's pixels.
///
/// # Errors
/// When the text is not an SVG figure, or the picture is empty or too large to hold.
pub fn to_png(svg: &str, scale: f32) -> Result<Vec<u8>, Error> {
    let options = Options {
        fontdb: Arc::clone(&FONTS),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options).map_err(|e| Error::Svg(Box::new(e)))?;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let mut picture = Pixmap::new(width.ceil() as u32, height.ceil() as u32)
        .ok_or(Error::Size { width, height })?;
    resvg::render(
        &tree,
        Transform::from_scale(scale, scale),
        &mut picture.as_mut(),
    );
    picture.encode_png().map_err(|e| Error::Png(e.to_string()))
}
