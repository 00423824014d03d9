//! Writes a world: `cargo run -p imprint-world --example write_world -- demo|ci DIRECTORY [SEED]`.

use std::error::Error;
use std::path::Path;

use imprint_world::{World, WorldConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (preset, directory, seed) = match args.as_slice() {
        [preset, directory] => (preset, directory, 0),
        [preset, directory, seed] => (preset, directory, seed.parse()?),
        _ => return Err("usage: write_world demo|ci DIRECTORY [SEED]".into()),
    };
    let preset = match preset.as_str() {
        "demo" => WorldConfig::demo(),
        "ci" => WorldConfig::ci(),
        other => return Err(format!("there is no preset `{other}`").into()),
    };
    let world = World::generate(WorldConfig { seed, ..preset })?;
    let files = world.write(Path::new(directory))?;
    println!("{files:#?}");
    Ok(())
}
