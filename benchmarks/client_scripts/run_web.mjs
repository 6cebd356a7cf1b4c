// onnxruntime-web in Node (WebAssembly): node run_web.mjs CASES RESULTS, of raw files HxW.image and HxW.mask (float32).
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const ort = createRequire(join(process.cwd(), "package.json"))("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const [cases, results] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(join(cases, "free.onnx")), { executionProviders: ["wasm"] });
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(join(cases, name))).buffer);
for (const file of readdirSync(cases).filter((name) => name.endsWith(".image"))) {
  const size = file.slice(0, -".image".length);
  const [rows, columns] = size.split("x").map((side) => Math.ceil(side / 8) * 8);
  const image = new ort.Tensor("float32", floats(file), [1, 3, rows, columns]);
  const mask = new ort.Tensor("float32", floats(`${size}.mask`), [1, 1, rows, columns]);
  const { inpainted } = await session.run({ image, mask });
  writeFileSync(join(results, `${size}.result`), new Uint8Array(inpainted.data.buffer, inpainted.data.byteOffset, inpainted.data.byteLength));
}
