# A boot sector that reads and writes its disk through the firmware's driver, and tells the result on
# the first serial port. Assembled by test_qemu.py with the compiler's assembler.
#
# Sectors 1-8 hold a text (zero-terminated) to print. All eight are written again at sector 16 and
# read back from there; "WRITTEN" or "DIFFERENT" or "ERROR" says how that went. Then QEMU's debug exit
# device ends the machine.

        .code16
        .set    TEXT, 0x8000
        .set    BACK, 0xa000
        .set    SECTORS, 8
        .set    SERIAL, 0x3f8
        .set    DEBUG_EXIT, 0xf4
        .globl  _start
_start:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        cld
        mov     $0x42, %ah              # extended read; the firmware gave the drive's number in dl
        mov     $read_text, %si
        int     $0x13
        jc      error
        mov     $TEXT, %si
        call    print
        mov     $0x4300, %ax            # extended write
        mov     $write_text, %si
        int     $0x13
        jc      error
        mov     $0x42, %ah
        mov     $read_back, %si
        int     $0x13
        jc      error
        mov     $TEXT, %si
        mov     $BACK, %di
        mov     $(SECTORS * 512), %cx
        repe cmpsb
        mov     $written, %si
        je      finish
        mov     $different, %si
        jmp     finish
error:
        mov     $failed, %si
finish:
        call    print
        mov     $DEBUG_EXIT, %dx
        xor     %ax, %ax
        out     %al, %dx
        hlt

print:
        push    %dx                     # the drive's number
        mov     $SERIAL, %dx
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, %dx
        jmp     1b
2:      pop     %dx
        ret

# Disk address packets: size, sectors, where in memory, first sector.
        .macro  packet offset, sector
        .byte   16, 0
        .word   SECTORS, \offset, 0
        .quad   \sector
        .endm
read_text:      packet TEXT, 1
write_text:     packet TEXT, 16
read_back:      packet BACK, 16

written:        .asciz "WRITTEN\n"
different:      .asciz "DIFFERENT\n"
failed:         .asciz "ERROR\n"

        .org    510
        .word   0xaa55
