// SPDX-License-Identifier: Apache-2.0
// An emulated NPU: PyTorch's PrivateUse1 device over host memory.
//
// Tensors on it have a device type, a dispatch key and an allocator of their own, so code that forgets to move a tensor
// fails here as on hardware. Every operator of aten runs on PyTorch's CPU kernels over the same memory, without a copy.
// Two things are the device's own:
//
// * Order. A KV cache write is "queued": another thread, and the copy engine in particular, sees it only after it has
//   synchronised with an event (or with the device) after the write. Until then emulated_npu_read gives it the old bytes.
// * Memory. It has a size, and running out of it is an error.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

namespace {

constexpr auto kNpu = c10::DeviceType::PrivateUse1;
constexpr size_t kAlignment = 512;  // what CANN's allocator gives

c10::DeviceIndex device_count() {
  static const char* text = std::getenv("EMULATED_NPU_DEVICES");
  return static_cast<c10::DeviceIndex>(text ? std::atoi(text) : 2);
}

int64_t total_bytes() {
  static const char* text = std::getenv("EMULATED_NPU_MEMORY_MB");
  return (text ? std::atoll(text) : 4096LL) << 20;
}

thread_local c10::DeviceIndex current_device = 0;
std::atomic<int64_t> allocated{0};
std::atomic<int64_t> peak{0};

// -- memory -----------------------------------------------------------------------------------------------------------

struct Allocation {
  void* data;
  int64_t bytes;
};

void release(void* context) {
  auto* allocation = static_cast<Allocation*>(context);
  allocated -= allocation->bytes;
  std::free(allocation->data);
  delete allocation;
}

struct NpuAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(kNpu, current_device);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    const auto now = allocated += static_cast<int64_t>(bytes);
    if (now > total_bytes()) {
      allocated -= static_cast<int64_t>(bytes);
      TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", bytes, " bytes");
    }
    for (auto seen = peak.load(); seen < now && !peak.compare_exchange_weak(seen, now);) {}
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    TORCH_CHECK(data, "the host has no memory left for the emulated NPU");
    return {data, new Allocation{data, static_cast<int64_t>(bytes)}, &release, device};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

NpuAllocator npu_allocator;
REGISTER_ALLOCATOR(kNpu, &npu_allocator);

// -- order ------------------------------------------------------------------------------------------------------------

struct Write {
  uint64_t number;
  char* address;
  std::vector<char> before;
};

constexpr size_t kLogBytes = 256u << 20;  // older writes count as seen by everyone
std::mutex log_lock;
std::deque<Write> writes;
size_t log_bytes = 0;
std::atomic<uint64_t> issued{0};
thread_local uint64_t seen = 0;  // this thread knows that the writes up to this number are done
std::atomic<uint64_t> waited{0};  // some thread has waited for these with an event or for the device: they are done

void see_everything() { seen = issued.load(); }

// -- device, streams --------------------------------------------------------------------------------------------------

struct NpuGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kNpu; }
  c10::Device exchangeDevice(c10::Device to) const override {
    const c10::Device from(kNpu, current_device);
    setDevice(to);
    return from;
  }
  c10::Device getDevice() const override { return {kNpu, current_device}; }
  void setDevice(c10::Device to) const override {
    TORCH_CHECK(to.index() < device_count(), "invalid NPU ", static_cast<int>(to.index()));
    if (to.index() >= 0) current_device = to.index();
  }
  void uncheckedSetDevice(c10::Device to) const noexcept override {
    if (to.index() >= 0) current_device = to.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, stream.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count(); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, NpuGuard);

// Random numbers are the CPU's: the same seed gives the same numbers on both.
struct NpuGenerator final : c10::GeneratorImpl {
  explicit NpuGenerator(c10::DeviceIndex index)
      : c10::GeneratorImpl({kNpu, index}, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host(at::make_generator<at::CPUGeneratorImpl>()) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  void set_offset(uint64_t) override { TORCH_CHECK(false, "the emulated NPU cannot set a generator's offset"); }
  uint64_t get_offset() const override { TORCH_CHECK(false, "the emulated NPU has no generator offset"); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  c10::GeneratorImpl* clone_impl() const override {
    auto* copy = new NpuGenerator(device().index());
    copy->host = host.clone();
    return copy;
  }
  at::Generator host;
};

at::Generator make_generator(c10::DeviceIndex index) { return at::make_generator<NpuGenerator>(index); }
REGISTER_GENERATOR_PRIVATEUSE1(make_generator)

struct NpuHooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return device_count(); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current_device = index; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator = make_generator(0);
    return generator;
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return make_generator(std::max<c10::DeviceIndex>(index, 0)); }
  c10::Device getDeviceFromPtr(void*) const override { return {kNpu, current_device}; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* target = storage.unsafeGetStorageImpl();
    auto data = npu_allocator.allocate(bytes);
    if (storage.nbytes() && bytes) std::memcpy(data.get(), storage.data(), std::min(storage.nbytes(), bytes));
    target->set_data_ptr_noswap(std::move(data));
    target->set_nbytes(bytes);
  }
};

// -- the same memory, seen by the CPU's kernels, and back --------------------------------------------------------------

void drop_storage(void* context) { delete static_cast<c10::Storage*>(context); }

at::Tensor over(const c10::Storage& storage, void* data, c10::Device device, const at::Tensor& like) {
  c10::DataPtr pointer(data, new c10::Storage(storage), &drop_storage, device);
  auto held = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage.nbytes(), std::move(pointer), nullptr, false);
  const auto key = device.is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::PrivateUse1;
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(held), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

at::Tensor to_host(const at::Tensor& tensor) {
  TORCH_CHECK(!tensor.is_conj() && !tensor.is_neg(), "the emulated NPU has no lazy conjugate or negative");
  if (tensor.storage().nbytes() == 0) {  // may be resized by an `out` operator
    auto empty = at::empty({0}, tensor.options().device(c10::kCPU));
    empty.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides());
    return empty;
  }
  return over(tensor.storage(), tensor.storage().unsafeGetStorageImpl()->mutable_data(), c10::Device(c10::kCPU), tensor);
}

at::Tensor to_npu(const at::Tensor& tensor) {
  return over(tensor.storage(), tensor.storage().unsafeGetStorageImpl()->mutable_data(), {kNpu, current_device}, tensor);
}

bool on_npu(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kNpu; }

struct Pair {
  at::Tensor npu, host;
};

at::Tensor& resize_to(at::Tensor& npu, const at::Tensor& host) {
  npu.resize_(host.sizes());
  if (host.numel()) std::memcpy(npu.mutable_data_ptr(), host.contiguous().const_data_ptr(), host.nbytes());
  return npu;
}

at::Tensor returned(const at::Tensor& host, std::vector<Pair>& pairs) {
  if (!host.defined()) return host;
  for (auto& pair : pairs)  // `out`, or in place
    if (pair.host.is_same(host)) return pair.npu;
  for (auto& pair : pairs) {  // a view
    if (host.storage().nbytes() && pair.host.storage().data() == host.storage().data()) {
      auto view = at::detail::make_tensor<c10::TensorImpl>(
          c10::TensorImpl::VIEW, c10::Storage(pair.npu.storage()), pair.npu.key_set(), host.dtype());
      view.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
      return view;
    }
  }
  return to_npu(host);
}

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  const auto begin = stack->size() - count;
  std::vector<Pair> pairs;
  std::vector<c10::Device> foreign;  // CPU tensors with dimensions
  auto convert = [&](const at::Tensor& tensor) {
    if (!on_npu(tensor)) {
      if (tensor.defined() && tensor.dim() > 0 && tensor.device().is_cpu()) foreign.push_back(tensor.device());
      return tensor;
    }
    for (auto& pair : pairs)
      if (pair.npu.is_same(tensor)) return pair.host;
    pairs.push_back({tensor, to_host(tensor)});
    return pairs.back().host;
  };
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor()) {
      value = convert(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(convert(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
        list.push_back(tensor ? std::optional<at::Tensor>(convert(*tensor)) : std::nullopt);
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == kNpu) {
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator() && value.toGenerator().device().type() == kNpu) {
      value = static_cast<NpuGenerator*>(value.toGenerator().unsafeGetGeneratorImpl())->host;
    }
  }
  // As torch does on any device; an index may be on the CPU.
  const auto& name = schema.name();
  TORCH_CHECK(
      pairs.empty() || foreign.empty() || name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0,
      "Expected all tensors to be on the same device, but ", name, " got tensors on npu:0 and cpu");
  op.callBoxed(stack);
  for (auto& pair : pairs)
    if (pair.host.sizes() != pair.npu.sizes()) resize_to(pair.npu, pair.host);
  const auto results = schema.returns().size();
  const auto first = stack->size() - results;
  for (size_t i = 0; i < results; ++i) {
    auto& value = (*stack)[first + i];
    if (value.isTensor()) {
      value = returned(value.toTensor(), pairs);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(returned(tensor, pairs));
      value = list;
    }
  }
}

// -- operators that make, move or look at memory -----------------------------------------------------------------------

at::Tensor empty(c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<c10::Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kNpu, current_device)));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &npu_allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kNpu, current_device)));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &npu_allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  auto host = on_npu(to) ? to_host(to) : to;
  host.copy_(on_npu(from) ? to_host(from) : from);
  if (!on_npu(to)) see_everything();  // the host has read a result, so it waited for it
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

c10::Scalar local_scalar(const at::Tensor& tensor) {
  see_everything();
  return to_host(tensor).item();
}

at::Tensor view(const at::Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}

const at::Tensor& resize(const at::Tensor& tensor, c10::SymIntArrayRef size, std::optional<c10::MemoryFormat>) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  const auto bytes = (impl->storage_offset() + impl->numel()) * impl->itemsize();
  if (bytes > impl->storage().nbytes()) NpuHooks().resizePrivateUse1Bytes(impl->storage(), bytes);
  return tensor;
}

at::Tensor& set_storage(at::Tensor& tensor, c10::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset.expect_int());
  if (stride.empty() && !size.empty()) {
    impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  } else {
    impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  }
  return tensor;
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(source.storage());
  impl->set_storage_offset(source.storage_offset());
  impl->set_sizes_and_strides(source.sizes(), source.strides());
  return tensor;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar);
  library.impl("view", &view);
  library.impl("as_strided", &as_strided);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &set_tensor);
}

const bool hooks_registered = [] {
  at::RegisterPrivateUse1HooksInterface(new NpuHooks());
  return true;
}();

}  // namespace

// -- for torch_npu (ctypes) --------------------------------------------------------------------------------------------

extern "C" {

int emulated_npu_device_count() { return device_count(); }
int emulated_npu_current_device() { return current_device; }
int emulated_npu_set_device(int index) {
  if (index < 0 || index >= device_count()) return 1;
  current_device = static_cast<c10::DeviceIndex>(index);
  return 0;
}
int64_t emulated_npu_total() { return total_bytes(); }
int64_t emulated_npu_allocated() { return allocated; }
int64_t emulated_npu_peak() { return peak; }
void emulated_npu_reset_peak() { peak = allocated.load(); }

// What this thread has queued so far: an event records it.
uint64_t emulated_npu_issued() { return issued; }
void emulated_npu_wait(uint64_t number) {
  seen = std::max(seen, number);
  for (auto most = waited.load(); most < number && !waited.compare_exchange_weak(most, number);) {}
}
// What a copy that another library makes may see. That a thread has read a result on the host does not count: it tells
// a copy that was submitted before nothing.
uint64_t emulated_npu_waited() { return waited; }
uint64_t emulated_npu_seen() { return seen; }

// Announce a write of `rows` of `bytes` each, before it happens.
void emulated_npu_queue_write(char* base, int64_t bytes, const int64_t* rows, int64_t count) {
  const std::lock_guard<std::mutex> hold(log_lock);
  const auto number = ++issued;
  for (int64_t i = 0; i < count; ++i) {
    char* address = base + rows[i] * bytes;
    writes.push_back({number, address, std::vector<char>(address, address + bytes)});
    log_bytes += bytes;
  }
  while (log_bytes > kLogBytes) {
    log_bytes -= writes.front().before.size();
    writes.pop_front();
  }
}

// Copy memory as this thread may see it: with the old bytes where a queued write is not known to be done.
int64_t emulated_npu_read(char* from, int64_t bytes, char* to) {
  const std::lock_guard<std::mutex> hold(log_lock);
  std::memcpy(to, from, bytes);
  int64_t unseen = 0;
  for (auto write = writes.rbegin(); write != writes.rend() && write->number > seen; ++write) {
    char* first = std::max(from, write->address);
    char* last = std::min(from + bytes, write->address + static_cast<int64_t>(write->before.size()));
    if (first >= last) continue;
    std::memcpy(to + (first - from), write->before.data() + (first - write->address), last - first);
    unseen += last - first;
  }
  return unseen;
}
}
