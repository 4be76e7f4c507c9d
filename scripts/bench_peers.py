"""The rounds of scripts/bench-peers: each engine is a process of its own, so that none has another's threads or memory."""
import argparse, hashlib, json, os, re, subprocess, sys

PEER = r'''
import sys, time
import numpy as np
peer, model, threads, frames, picture, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6]), int(sys.argv[7])
if picture:
    from PIL import Image
    image = Image.open(picture).convert("RGB")
    ratio = min(width / image.width, height / image.height)
    size = (round(image.width * ratio), round(image.height * ratio))
    canvas = np.full((height, width, 3), 114, np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas[top:top + size[1], left:left + size[0]] = np.asarray(image.resize(size, Image.BILINEAR))
    x = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32) / 255
else:
    x = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
if peer == "onnxruntime":
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    run, version = lambda: session.run(None, {name: x}), ort.__version__
elif peer == "openvino":
    import openvino as ov
    net = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    request = net.create_infer_request()
    run, version = lambda: request.infer([x]), ov.__version__.split("-")[0]
else:
    import ncnn
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.load_param(model + ".ncnn.param")
    net.load_model(model + ".ncnn.bin")
    def run():
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return np.array(extractor.extract("out0")[1])
    version = ncnn.__version__
for _ in range(3):
    run()
times = []
for _ in range(frames):
    begun = time.perf_counter()
    run()
    times.append((time.perf_counter() - begun) * 1e3)
print(version, min(times))
'''


def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1:])
    return done.stdout


def main():
    args = argparse.ArgumentParser()
    for name, kind, default in [("work", str, None), ("flytrap", str, None), ("picture", str, ""), ("rounds", int, 3), ("frames", int, 30), ("threads", str, "1 2")]:
        args.add_argument("--" + name, type=kind, default=default)
    args.add_argument("--ours", action="append")
    args.add_argument("models", nargs="+")
    args = args.parse_args()
    ours = dict(way.split("=", 1) for way in args.ours or ["flytrap="])
    import onnx

    rows = []
    for model in args.models:
        sides = [d.dim_value for d in onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim]
        height, width = sides[2:]
        if not (height and width):
            sys.exit(f"{model}: its sides are free; export it with fixed ones")
        kind = hashlib.sha256(open(model, "rb").read()).hexdigest()[:8]
        copy = os.path.join(args.work, os.path.basename(model).removesuffix(".onnx") + f"-{kind}.onnx")
        if not os.path.exists(copy + ".ncnn.param"):
            subprocess.run(["cp", model, copy])
            os.chmod(copy, 0o644)
            subprocess.run([os.path.join(args.work, "venv/bin/pnnx"), copy, f"inputshape=[1,3,{height},{width}]f32"], capture_output=True)
            stem = os.path.basename(copy).removesuffix(".onnx").replace("-", "_")
            for end in ("param", "bin"):
                made = os.path.join(args.work, f"{stem}.ncnn.{end}")
                if os.path.exists(made):
                    os.replace(made, f"{copy}.ncnn.{end}")
        rten = os.path.join(args.work, "rten/bin/rten")
        for threads in args.threads.split():
            best, versions = {}, {}

            def note(name, version, time):
                versions[name], best[name] = version, min(time, best.get(name, 1e9))

            for _ in range(args.rounds):
                for name, options in ours.items():
                    command = [args.flytrap, "bench", "--json", "--model", model, "--threads", threads, "--frames", str(args.frames)]
                    found = json.loads(output(command + options.split() + ([args.picture] if args.picture else [])))
                    note(name, found["engine"].split(",")[0], found["stages"]["infer_ms"]["min"])
                for peer in ("onnxruntime", "openvino", "ncnn"):
                    try:
                        where = copy if peer == "ncnn" else model
                        said = output([sys.executable, "-c", PEER, peer, where, threads, str(args.frames), args.picture, str(height), str(width)])
                        note(peer, *(lambda v, t: (v, float(t)))(*said.split()[-2:]))
                    except RuntimeError as error:
                        print(f"{peer}: {error}", file=sys.stderr)
                if os.path.exists(rten):
                    try:
                        # It uses its own random input; its time does not depend on the input.
                        said = output([rten, copy, "--prepack", "-n", str(args.frames), "-t", threads])
                        times = [float(t) for t in re.findall(r"#\d+.*?([\d.]+) ?ms", said)]
                        note("rten", "", min(times))
                    except (RuntimeError, ValueError) as error:
                        print(f"rten: {error}", file=sys.stderr)
            rows.append((os.path.basename(model), threads, best, versions))
    names = list(rows[0][2])
    print("| model | threads | " + " | ".join(f"{n} {rows[0][3].get(n, '')}".strip() for n in names) + " | ours / ONNX Runtime | ours / best peer |")
    print("|---" * (len(names) + 4) + "|")
    for model, threads, best, _ in rows:
        mine = best[next(iter(ours))]
        peers = [best[n] for n in best if n not in ours]
        cells = [f"{best[n]:.2f}" if n in best else "-" for n in names]
        ratio = f"{mine / best['onnxruntime']:.2f}" if "onnxruntime" in best else "-"
        print(f"| {model} | {threads} | " + " | ".join(cells) + f" | {ratio} | {mine / min(peers, default=float("nan")):.2f} |")


main()
