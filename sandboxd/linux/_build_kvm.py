"""Builds sandboxd.linux._kvm: what the probe guest needs of /dev/kvm, with layouts from the kernel's own header."""

from cffi import FFI

ffibuilder = FFI()
ffibuilder.cdef(
    """
    #define KVM_API_VERSION ...
    #define KVM_GET_API_VERSION ...
    #define KVM_CREATE_VM ...
    #define KVM_CREATE_VCPU ...
    #define KVM_GET_VCPU_MMAP_SIZE ...
    #define KVM_SET_USER_MEMORY_REGION ...
    #define KVM_CREATE_IRQCHIP ...
    #define KVM_GET_SREGS ...
    #define KVM_SET_SREGS ...
    #define KVM_SET_REGS ...
    #define KVM_RUN ...
    #define KVM_EXIT_IO ...
    #define KVM_EXIT_INTR ...

    struct kvm_userspace_memory_region {
        uint32_t slot;
        uint64_t guest_phys_addr;
        uint64_t memory_size;
        uint64_t userspace_addr;
        ...;
    };
    struct kvm_segment { uint64_t base; uint16_t selector; ...; };
    struct kvm_sregs { struct kvm_segment cs; ...; };
    struct kvm_regs { uint64_t rip; uint64_t rflags; ...; };
    struct kvm_run { uint32_t exit_reason; ...; };

    int ioctl(int fd, unsigned long request, ...);
    uint16_t sandboxd_io_port(const struct kvm_run *run);
    """
)
ffibuilder.set_source(
    "sandboxd.linux._kvm",
    r"""
    #include <linux/kvm.h>
    #include <stdint.h>
    #include <sys/ioctl.h>


    /* The port lies in an anonymous union, which cffi cannot name. */
    static uint16_t sandboxd_io_port(const struct kvm_run *run)
    {
        return run->io.port;
    }
    """,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=False)
