// From the network's output to detections, as streamer/models/postprocess.py does it: threshold, boxes, class-wise NMS.
#include <cuda_fp16.h>

#include "picture.cuh"

struct Box {
    float x1, y1, x2, y2;
};

enum { MAX_DETECTIONS = 100 };

struct Result {  // of one picture; read on the host by streamer/cuda/kernels.py (RESULT_DTYPE)
    // (point, class) pairs above the threshold. Above the capacity, the rest is invalid: too many candidates, or
    // NaN or Inf in the output.
    int found;
    int kept;
    int reserved[2];
    Box boxes[MAX_DETECTIONS];  // pixels of the source, clipped to it, best first
    float scores[MAX_DETECTIONS];
    int class_ids[MAX_DETECTIONS];
};

__device__ inline float load(const float* at) { return *at; }
__device__ inline float load(const __half* at) { return __half2float(*at); }
__device__ inline float clip(float value, float limit) { return fminf(fmaxf(value, 0.0f), limit); }

// The expectation of the softmax over one side's bins (Generalized Focal Loss, arXiv:2006.04388, section 3.2).
template <typename T> __device__ inline float expected_bin(const T* logits, int bins) {
    float largest = load(logits);
    for (int i = 1; i < bins; ++i) largest = fmaxf(largest, load(logits + i));
    float total = 0.0f, moment = 0.0f;
    for (int i = 0; i < bins; ++i) {
        float weight = expf(load(logits + i) - largest);
        total += weight;
        moment += weight * i;
    }
    return moment / total;
}

// Sorts as streamer/models/postprocess.py does: best score first, and equal scores in the order of the output.
__device__ inline unsigned long long sort_key(float score, int place) {
    return (unsigned long long)~__float_as_uint(score) << 32 | (unsigned int)place;
}

// One thread checks one score and its share of the point's bins. For NaN or Inf it sets `found` above the capacity; the
// host then calls streamer/models/postprocess.py, which raises the error.
// `points` is (count, 3): x, y and stride of the anchor points in input pixels.
template <typename T>
__device__ inline void find(const T* output, const float* points, const unsigned char* wanted, int count, int classes,
                            int bins, float conf, float width, float height, int capacity, int* found,
                            unsigned long long* keys, Box* boxes) {
    int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= count * classes) return;
    int point = place / classes, class_id = place - point * classes;
    const T* channels = output + ((long long)blockIdx.y * count + point) * (classes + 4 * bins);
    float score = load(channels + class_id);
    bool finite = isfinite(score);
    for (int i = class_id; i < 4 * bins; i += classes) finite &= isfinite(load(channels + classes + i));
    if (!finite) atomicMax(found + blockIdx.y, capacity + 1);
    if (!(score > conf) || !wanted[class_id]) return;
    int at = atomicAdd(found + blockIdx.y, 1);
    if (at >= capacity) return;
    const T* logits = channels + classes;
    float x = points[3 * point], y = points[3 * point + 1], stride = points[3 * point + 2];
    Box box;
    box.x1 = clip(x - expected_bin(logits, bins) * stride, width);
    box.y1 = clip(y - expected_bin(logits + bins, bins) * stride, height);
    box.x2 = clip(x + expected_bin(logits + 2 * bins, bins) * stride, width);
    box.y2 = clip(y + expected_bin(logits + 3 * bins, bins) * stride, height);
    keys[(long long)blockIdx.y * capacity + at] = sort_key(score, place);
    boxes[(long long)blockIdx.y * capacity + at] = box;
}

#define FIND(name, type)                                                                                            \
    extern "C" __global__ void name(const type* output, const float* points, const unsigned char* wanted,           \
                                    int count, int classes, int bins, float conf, float width, float height,        \
                                    int capacity, int* found, unsigned long long* keys, Box* boxes) {                   \
        find(output, points, wanted, count, classes, bins, conf, width, height, capacity, found, keys, boxes);          \
    }

FIND(find_f32, float)
FIND(find_f16, __half)

__device__ inline float area(Box box) { return fmaxf(box.x2 - box.x1, 0.0f) * fmaxf(box.y2 - box.y1, 0.0f); }

__device__ inline bool overlaps(Box a, Box b, float iou) {
    float across = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
    float down = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
    float overlap = across * down;
    return overlap > iou * (area(a) + area(b) - overlap);
}

// Bitonic sort of a power of two of keys in shared memory, ascending, each with the slot of its box.
__device__ inline void sort(unsigned long long* keys, unsigned short* slots, int size) {
    for (int span = 2; span <= size; span *= 2) {
        for (int gap = span / 2; gap > 0; gap /= 2) {
            for (int i = threadIdx.x; i < size; i += blockDim.x) {
                int other = i ^ gap;
                bool ascending = (i & span) == 0;
                if (other > i && (keys[i] > keys[other]) == ascending) {
                    unsigned long long key = keys[i];
                    keys[i] = keys[other];
                    keys[other] = key;
                    unsigned short slot = slots[i];
                    slots[i] = slots[other];
                    slots[other] = slot;
                }
            }
            __syncthreads();
        }
    }
}

// Maps a box from input pixels to source pixels, clipped to the source: streamer.models.letterbox.Letterbox.to_source.
__device__ inline Box to_source(Box box, const Picture& picture) {
    float scale_x = (float)picture.width / (float)picture.resized_width;
    float scale_y = (float)picture.height / (float)picture.resized_height;
    Box mapped = {clip((box.x1 - picture.offset_x) * scale_x, (float)picture.width),
                  clip((box.y1 - picture.offset_y) * scale_y, (float)picture.height),
                  clip((box.x2 - picture.offset_x) * scale_x, (float)picture.width),
                  clip((box.y2 - picture.offset_y) * scale_y, (float)picture.height)};
    return mapped;
}

enum { CAPACITY = 4096, WORDS = CAPACITY / 32 };

// Greedy class-wise NMS, one block for a picture. Boxes without area in the source are skipped. `capacity` is at most
// CAPACITY; `found` is reset to zero for the next run.
extern "C" __global__ void suppress(const Picture* pictures, int* found, const unsigned long long* all_keys,
                                    const Box* all_boxes, int capacity, int most, int classes, float iou,
                                    Result* results) {
    __shared__ unsigned long long keys[CAPACITY];
    __shared__ unsigned short slots[CAPACITY];
    __shared__ unsigned int alive[WORDS];
    const Box* boxes = all_boxes + (long long)blockIdx.x * capacity;
    Result* result = results + blockIdx.x;
    int total = found[blockIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        result->found = total;
        result->kept = 0;
        found[blockIdx.x] = 0;
    }
    if (total == 0 || total > capacity) return;

    int size = 1;
    while (size < total) size *= 2;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        keys[i] = i < total ? all_keys[(long long)blockIdx.x * capacity + i] : ~0ull;
        slots[i] = (unsigned short)i;
    }
    __syncthreads();
    sort(keys, slots, size);
    int count = total < most ? total : most;
    int words = (count + 31) / 32;
    for (int i = threadIdx.x; i < words; i += blockDim.x) {
        int left = count - 32 * i;
        alive[i] = left >= 32 ? ~0u : (1u << left) - 1;
    }
    __syncthreads();

    int kept = 0;
    for (int word = 0; word < words && kept < MAX_DETECTIONS;) {
        if (alive[word] == 0) {
            ++word;
            continue;
        }
        int best = 32 * word + __ffs(alive[word]) - 1;
        Box box = boxes[slots[best]];
        Box shown = to_source(box, pictures[blockIdx.x]);
        bool has_area = shown.x2 > shown.x1 && shown.y2 > shown.y1;
        int class_id = (int)((unsigned int)keys[best] % classes);
        __syncthreads();  // every thread has read `alive` before any changes it
        if (threadIdx.x == 0) {
            if (has_area) {
                result->boxes[kept] = shown;
                result->scores[kept] = __uint_as_float(~(unsigned int)(keys[best] >> 32));
                result->class_ids[kept] = class_id;
            }
            atomicAnd(alive + word, ~(1u << (best & 31)));
        }
        for (int i = best + 1 + threadIdx.x; has_area && i < count; i += blockDim.x) {
            bool same = (int)((unsigned int)keys[i] % classes) == class_id;
            if (same && (alive[i / 32] >> (i & 31) & 1) && overlaps(box, boxes[slots[i]], iou))
                atomicAnd(alive + i / 32, ~(1u << (i & 31)));
        }
        kept += has_area;
        __syncthreads();
    }
    if (threadIdx.x == 0) result->kept = kept;
}
