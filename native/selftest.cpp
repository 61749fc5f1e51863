// Self-test of the kernels without Python: every kernel of the best instruction set against plain loops in
// double precision, and against itself with other threads and batches. Made for emulators of other processors
// (tests/kernels/test_neon.py). Prints the instruction set; exits with 1 and says what differs if anything does.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "network.h"
#include "ops.h"

namespace {

int failures = 0;
std::mt19937 random_bits(1);

float uniform() { return (float)(int32_t)random_bits() / 2147483648.0f; }

std::vector<float> floats(ptrdiff_t count) {
    std::vector<float> v(count);
    for (float& x : v) x = uniform();
    return v;
}

void expect(bool good, const char* what, const char* detail) {
    if (good) return;
    std::printf("FAILED %s %s\n", what, detail);
    ++failures;
}

void expect_close(const std::vector<float>& got, const std::vector<double>& want, double tolerance, const char* what,
                  const char* detail) {
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::fmax(worst, std::fabs(got[i] - want[i]));
    expect(worst <= tolerance, what, detail);  // NaN fails
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

struct Tiled {
    std::vector<uint8_t> bytes;
    Weights weights;
    std::vector<int> w8;  // rows x columns, decoded one value at a time
    std::vector<float> scales;
};

Tiled random_tiles(ptrdiff_t rows, ptrdiff_t columns, int bits, ptrdiff_t group_size) {
    Tiled t;
    t.weights = ops::tiled_weights(nullptr, rows, columns, bits, group_size);
    const ptrdiff_t panels = (rows + 15) / 16;
    t.bytes.resize(panels * t.weights.panel_bytes);
    for (uint8_t& byte : t.bytes) byte = (uint8_t)random_bits();
    const int limit = bits == 8 ? 0 : 127 >> (bits - 1);
    for (ptrdiff_t p = 0; p < panels; ++p) {
        uint8_t* panel = t.bytes.data() + p * t.weights.panel_bytes;
        for (int r = 0; r < 16; ++r) {
            const float scale = 0.01f + 0.01f * std::fabs(uniform());
            std::memcpy(panel + 4 * r, &scale, 4);
            for (ptrdiff_t g = 0; g < t.weights.groups; ++g)
                panel[64 + g * 16 + r] = (uint8_t)(limit ? (int)(random_bits() % (2 * limit + 1)) - limit : 1);
        }
    }
    t.weights.data = t.bytes.data();
    t.w8.resize(rows * columns);
    t.scales.resize(rows);
    for (ptrdiff_t n = 0; n < rows; ++n) {
        const uint8_t* panel = t.bytes.data() + n / 16 * t.weights.panel_bytes;
        std::memcpy(&t.scales[n], panel + 4 * (n % 16), 4);
        for (ptrdiff_t k = 0; k < columns; ++k) {
            const ptrdiff_t g = k / group_size, quad = k % group_size / 4, byte = n % 16 * 4 + k % 4;
            const uint8_t* plane = panel + t.weights.codes_offset + g * group_size * 2 * bits;
            int code = 0, low = 0;
            for (int width : {8, 4, 2, 1}) {
                if (!(bits & width)) continue;
                const int packed = plane[quad / (8 / width) * 64 + byte];
                code |= (packed >> (quad % (8 / width) * width) & ((1 << width) - 1)) << low;
                low += width;
                plane += group_size * 2 * width;
            }
            t.w8[n * columns + k] = (int8_t)panel[64 + g * 16 + n % 16] * (code - (1 << (bits - 1)));
        }
    }
    return t;
}

void test_linear(Pool& one, Pool& three, const KernelTable& k) {
    for (int bits = 1; bits <= 8; ++bits)
        for (ptrdiff_t group_size : {32, 64, 128})
            for (ptrdiff_t m : {1, 5, 70}) {
                const ptrdiff_t n = 1 + random_bits() % 70, columns = 1 + random_bits() % 200;
                char detail[96];
                std::snprintf(detail, sizeof detail, "bits %d group %d: %d rows, %d x %d", bits, (int)group_size, (int)m,
                              (int)n, (int)columns);
                const Tiled t = random_tiles(n, columns, bits, group_size);
                const std::vector<float> x = floats(m * columns), bias = floats(n), inverse(columns, 0.5f);
                std::vector<float> out(m * n), again(m * n), row(n);
                std::vector<double> want(m * n), want_float(m * n);
                for (ptrdiff_t i = 0; i < m; ++i) {
                    float top = 0;
                    for (ptrdiff_t c = 0; c < columns; ++c) top = std::fmax(top, std::fabs(x[i * columns + c] * 0.5f));
                    const float step = top / 127.0f;
                    for (ptrdiff_t r = 0; r < n; ++r) {
                        long sum = 0;
                        double exact = 0;
                        for (ptrdiff_t c = 0; c < columns; ++c) {
                            const float scaled = x[i * columns + c] * 0.5f;
                            sum += (long)t.w8[r * columns + c] * (long)std::nearbyint(scaled * (1.0f / step));
                            exact += (double)t.w8[r * columns + c] * scaled;
                        }
                        want[i * n + r] = (double)sum * ((double)step * t.scales[r]) + bias[r];
                        want_float[i * n + r] = exact * t.scales[r] + bias[r];
                    }
                }
                const uint8_t* unpacked = nullptr;
                auto run = [&](Pool& pool, const float* in, ptrdiff_t rows, float* to, bool int8) {
                    ops::linear(pool, k, in, rows, columns, inverse.data(), {{&t.weights, bias.data(), to, n, unpacked}}, int8,
                                NONE);
                };
                for (bool int8 : {true, false}) {
                    run(one, x.data(), m, out.data(), int8);
                    expect_close(out, int8 ? want : want_float, int8 ? 5e-5 : 5e-4, "linear", detail);
                    run(three, x.data(), m, again.data(), int8);
                    expect(same(out, again), "linear with three threads", detail);
                    run(one, x.data() + (m - 1) * columns, 1, row.data(), int8);
                    expect(same(row, {out.end() - n, out.end()}), "linear of one row", detail);
                }
                std::vector<uint8_t> ahead(ops::unpacked_bytes(t.weights));
                ops::unpack(three, k, t.weights, ahead.data());
                unpacked = ahead.data();
                run(one, x.data(), m, again.data(), true);
                unpacked = nullptr;
                run(one, x.data(), m, out.data(), true);
                expect(same(out, again), "linear unpacked ahead", detail);
                const std::vector<int32_t> rows{0, (int32_t)n - 1};
                std::vector<float> gathered(2 * columns);
                std::vector<double> stored(2 * columns);
                ops::embed(one, k, {{&t.weights, rows.data()}}, 2, nullptr, nullptr, 0, gathered.data());
                for (ptrdiff_t i = 0; i < 2 * columns; ++i)
                    stored[i] = (double)t.w8[rows[i / columns] * columns + i % columns] * t.scales[rows[i / columns]];
                expect_close(gathered, stored, 1e-6, "embed", detail);
            }
}

void test_rows(Pool& pool, const KernelTable& k) {
    for (ptrdiff_t columns : {1, 3, 16, 37, 384}) {
        const ptrdiff_t rows = 7;
        const std::vector<float> x = floats(rows * columns), residual = floats(rows * columns), gamma = floats(columns),
                                 beta = floats(columns);
        std::vector<float> out(rows * columns);
        std::vector<double> want(rows * columns);
        ops::layer_norm(pool, k, x.data(), residual.data(), gamma.data(), beta.data(), 1e-5f, rows, columns, out.data());
        for (ptrdiff_t r = 0; r < rows; ++r) {
            double mean = 0, variance = 0;
            auto value = [&](ptrdiff_t c) { return (double)x[r * columns + c] + residual[r * columns + c]; };
            for (ptrdiff_t c = 0; c < columns; ++c) mean += value(c) / columns;
            for (ptrdiff_t c = 0; c < columns; ++c) variance += std::pow(value(c) - mean, 2) / columns;
            for (ptrdiff_t c = 0; c < columns; ++c)
                want[r * columns + c] = (value(c) - mean) / std::sqrt(variance + 1e-5) * gamma[c] + beta[c];
        }
        expect_close(out, want, 1e-5, "layer_norm", std::to_string(columns).c_str());
        for (Activation kind : {GELU_ERF, GELU_TANH, RELU, TANH}) {
            for (ptrdiff_t i = 0; i < rows * columns; ++i) {
                const double v = out[i] = 8 * x[i];
                want[i] = kind == GELU_ERF    ? 0.5 * v * (1 + std::erf(v * std::sqrt(0.5)))
                          : kind == GELU_TANH ? 0.5 * v * (1 + std::tanh(0.7978845608 * (v + 0.044715 * v * v * v)))
                          : kind == RELU      ? std::fmax(v, 0.0)
                                              : std::tanh(v);
            }
            ops::activate(pool, k, out.data(), rows, columns, kind);
            expect_close(out, want, 5e-6, "activate", std::to_string((int)kind).c_str());
        }
    }
}

void test_attention(Pool& one, Pool& three, const KernelTable& k) {
    for (ptrdiff_t head_size : {1, 7, 16, 32})
        for (bool half : {false, true}) {
            const std::vector<int64_t> starts{0, 1, 18, 18, 60};
            const ptrdiff_t heads = 3, tokens = 60, width = heads * head_size;
            const std::vector<float> qkv = floats(tokens * 3 * width);
            std::vector<float> out(tokens * width), again(tokens * width);
            std::vector<double> want(tokens * width);
            for (size_t s = 0; s + 1 < starts.size(); ++s)
                for (ptrdiff_t h = 0; h < heads; ++h)
                    for (ptrdiff_t i = starts[s]; i < starts[s + 1]; ++i) {
                        auto at = [&](ptrdiff_t token, int part, ptrdiff_t c) {
                            return (double)qkv[(token * 3 + part) * width + h * head_size + c];
                        };
                        double total = 0;
                        for (ptrdiff_t j = starts[s]; j < starts[s + 1]; ++j) {
                            double score = 0;
                            for (ptrdiff_t c = 0; c < head_size; ++c) score += at(i, 0, c) * at(j, 1, c);
                            const double e = std::exp(0.3 * score);
                            total += e;
                            for (ptrdiff_t c = 0; c < head_size; ++c)
                                want[i * width + h * head_size + c] += e * at(j, 2, c);
                        }
                        for (ptrdiff_t c = 0; c < head_size; ++c) want[i * width + h * head_size + c] /= total;
                    }
            auto run = [&](Pool& pool, float* to) {
                ops::attention(pool, k, qkv.data(), qkv.data() + width, qkv.data() + 2 * width, 3 * width, starts.data(),
                               (ptrdiff_t)starts.size() - 1, heads, head_size, 0.3f, half, to);
            };
            run(one, out.data());
            expect_close(out, want, half ? 1e-2 : 1e-5, "attention", std::to_string(head_size).c_str());
            run(three, again.data());
            expect(same(out, again), "attention with three threads", std::to_string(head_size).c_str());
        }
}

// G of F(n, k) at the points 0, 1/2, -1/2, ..., infinity: the filter at point p.
double at_point(const double* filter, int taps, int points, int p) {
    auto point = [](int i) { return (i + 1) / 2 * (i % 2 ? 0.5 : -0.5); };
    if (p == points - 1) return filter[taps - 1];
    double scale = 1, sum = 0;
    for (int q = 0; q < points - 1; ++q)
        if (q != p) scale *= point(p) - point(q);
    for (int i = taps; i-- > 0;) sum = sum * point(p) + filter[i];
    return sum / scale;
}

// A convolution by each scheme, from planar to blocked and back, against its definition.
void test_convolution(const KernelTable& k) {
    const int64_t C = 21, O = 19, H = 10, W = 9, K = 3, outputs_of[] = {O, O, O, 0, C};
    const ConvTable& table = *k.convolution;
    const int64_t L = table.lanes, blocks = (C + L - 1) / L;
    for (ops::Scheme scheme : {ops::DIRECT, ops::IM2COL, ops::WINOGRAD, ops::DEPTHWISE})
        for (int threads : {1, 3}) {
            const bool depthwise = scheme == ops::DEPTHWISE, winograd = scheme == ops::WINOGRAD;
            const int64_t outputs = outputs_of[scheme], out_blocks = (outputs + L - 1) / L, inner = depthwise ? 1 : C;
            const int points = winograd ? 6 : 3;
            const std::vector<float> x = floats(C * H * W), w = floats(outputs * inner * K * K);
            auto weight = [&](int64_t o, int64_t c, int64_t y, int64_t z) {
                return o < outputs ? (double)w[((o * inner + c) * K + y) * K + z] : 0.0;
            };
            auto packed_value = [&](int64_t o, int64_t c, int y, int z) {
                if (!winograd) return weight(o, c, y, z);
                double along[3];
                for (int i = 0; i < 3; ++i) {
                    const double row[] = {weight(o, c, i, 0), weight(o, c, i, 1), weight(o, c, i, 2)};
                    along[i] = at_point(row, 3, points, z);
                }
                return at_point(along, 3, points, y);
            };
            std::vector<float> packed;
            const int64_t wide = depthwise ? L : CONV_VECTORS * L;
            for (int64_t o = 0; o < out_blocks * L; o += wide)
                for (int64_t tap = 0; winograd && tap < points * points; ++tap)
                    for (int64_t c = 0; c < C; ++c)
                        for (int64_t i = o; i < o + wide && i < out_blocks * L; ++i)
                            packed.push_back((float)packed_value(i, c, (int)(tap / points), (int)(tap % points)));
            for (int64_t o = 0; !winograd && o < out_blocks * L; o += wide)
                for (int64_t first = 0; first < inner; first += L)
                    for (int tap = 0; tap < K * K; ++tap)
                        for (int64_t c = first; c < first + L && c < inner; ++c)
                            for (int64_t i = o; i < o + wide && i < out_blocks * L; ++i)
                                packed.push_back((float)packed_value(i, c, tap / 3, tap % 3));
            const int64_t size = 64 * 1024, in = 4096, blocked = in + blocks * H * W * L, planar = blocked + out_blocks * H * W * L;
            const int64_t scratch = planar + outputs * H * W + 64, stride = 2 * size;
            std::vector<float> arena(scratch + 3 * stride);
            std::memcpy(arena.data(), x.data(), x.size() * sizeof(float));
            ops::Network network(threads, &k);
            network.layout(0, in, 1, C, H * W, true);
            const ops::Convolution shape{scheme, 1, C, outputs, H, W, H, W, K, K, 1, 1, 1, 1, 1, 1, L, winograd ? 4 : 1,
                                         winograd ? 4 : 1, 0, 4, in, blocked, -1, scratch, stride};
            network.convolution(shape, packed.data(), nullptr, -1e30f, 1e30f);
            network.layout(blocked, planar, 1, outputs, H * W, false);
            network.run(arena.data(), 0, network.count());
            std::vector<double> want(outputs * H * W);
            for (int64_t o = 0; o < outputs; ++o)
                for (int64_t p = 0; p < H * W; ++p)
                    for (int64_t c = 0; c < inner; ++c)
                        for (int64_t tap = 0; tap < K * K; ++tap) {
                            const int64_t y = p / W + tap / K - 1, z = p % W + tap % K - 1;
                            if (y < 0 || z < 0 || y >= H || z >= W) continue;
                            want[o * H * W + p] += weight(o, c, tap / K, tap % K) * x[((depthwise ? o : c) * H + y) * W + z];
                        }
            const std::vector<float> got(arena.begin() + planar, arena.begin() + planar + outputs * H * W);
            expect_close(got, want, winograd ? 2e-3 : 1e-4, "convolution", std::to_string((int)scheme).c_str());
        }
}

}  // namespace

int main(int argc, char** argv) {
    const KernelTable* kernels = ops::find_kernels(argc > 1 ? argv[1] : "auto");
    if (!kernels) {
        std::printf("this processor has not got %s\n", argv[1]);
        return 1;
    }
    std::printf("%s%s\n", kernels->name, kernels == kernels_neon_dot() ? " with dot products" : "");
    Pool one(1), three(3);
    test_linear(one, three, *kernels);
    test_rows(one, *kernels);
    test_attention(one, three, *kernels);
    test_convolution(*kernels);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
