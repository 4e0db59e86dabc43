// Prints the map of a distance matrix and the map laid onto a target, as JSON.
import { readFileSync } from "node:fs";
import { classicalScaling, procrustes } from "../../hilbertlib/lab/geometry.js";

const { distances, target } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { points, stress } = classicalScaling(Float64Array.from(distances.flat()), distances.length);
const aligned = procrustes(points, Float64Array.from(target.flat()), distances.map((_, i) => [i, i]));
process.stdout.write(JSON.stringify({ stress, aligned: Array.from(aligned) }));
