"""Addresses that no page may reach, and how else they can be written."""

from __future__ import annotations

__all__ = ["ADDRESSES", "PUBLIC", "SPELLINGS", "names"]

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "100.128.0.1", "172.32.0.1"]

ADDRESSES = [
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.1.1", "100.64.0.1", "100.100.100.200",
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "192.88.99.1", "240.0.0.1", "127.0.0.1", "127.8.8.8", "0.0.0.0", "::", "::1",
    "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:93.184.216.34", "::10.0.0.1",
    "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001:0:a00:1::1", "2600::5efe:10.0.0.1",
    "2600::200:5efe:127.0.0.1", "fd00::1", "fd00:ec2::254", "fc00::1", "fec0::1", "2001:db8::1", "3fff::1", "100::1",
    "2001:2::1", "2001:20::1", "5f00::1", "4000::1",
]  # fmt: skip
"""Every one can be reached from where the tests stand, were it not refused; beside them, those that cannot:"""
ADDRESSES += ["224.0.0.1", "255.255.255.255", "fe80::1", "ff02::1", "ff0e::1"]

SPELLINGS = [
    # 127.0.0.1 in other bases, in fewer parts, with leading zeros and dots behind
    "http://2130706433/", "http://0x7f000001/", "http://0X7F000001/", "http://017700000001/", "http://127.1/",
    "http://127.0.1/", "http://0x7f.1/", "http://0177.1/", "http://0177.0.0.1/", "http://0x7f.0x0.0x0.0x1/",
    "http://127.0x1/", "http://0x7f.0.01/", "http://127.0.0.1./", "http://127.1./", "http://127.00.00.01/",
    "http://0/", "http://0x0/", "http://00/", "http://0.0/", "http://0x/", "http://0x7F.0X1/", "http://127.65535/",
    # other machines
    "http://167772161/", "http://0xa000001/", "http://012.0.0.1/", "http://10.1/", "http://3232235777/",
    "http://0xc0a80101/", "http://0300.0250.1.1/", "http://192.168.257/", "http://2852039166/", "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/", "http://169.254.43518/", "http://169.16689662/", "http://0xa9.254.0251.254/",
    "http://4294967295/", "http://037777777777/", "http://0xffffffff/",
    # digits and dots that are others
    "http://127。0。0。1/", "http://127．0．0．1/", "http://127｡0｡0｡1/", "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/", "http://１０．０。０｡１/", "http://𝟏𝟐𝟕.𝟎.𝟎.𝟏/", "http://¹²⁷.⁰.⁰.¹/", "http://1\u00ad27.0.0.1/",
    # escapes
    "http://%31%32%37.0.0.1/", "http://127.0.0.%31/", "http://127%2e0%2e0%2e1/", "http://127%2E1/",
    "http://%EF%BC%91%30.0.0.1/", "http://0x7f%2e1/", "http://10%E3%80%820%E3%80%820%E3%80%821/",
    # what is before, behind and around the host
    "http://example.org@127.0.0.1/", "http://93.184.216.34@10.0.0.1/", "http://a:b@10.0.0.1/",
    "http://93.184.216.34:80@10.0.0.1/", "http://93.184.216.34%40@10.0.0.1/", "http://10.0.0.1#@93.184.216.34/",
    "http://10.0.0.1?@93.184.216.34/", "http://10.0.0.1\\@93.184.216.34/", "http://10.0.0.1\\.example.org/",
    "http:10.0.0.1/", "http:/10.0.0.1/", "http:///10.0.0.1/", "http:\\\\10.0.0.1/", "HTTP://10.0.0.1/",
    "http://10.0.0.1:80/", "http://10.0.0.1:0080/", "http://10.0.0.1:/", "http://10.0.0.1.:80/",
    "http://10.0\t.0.1/", "http://10.0\n.0.1/", "ht\ttp://10.0.0.1/", " http://10.0.0.1/",
    # localhost
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.b.localhost/", "http://ｌｏｃａｌｈｏｓｔ/",
    "http://loc%61lhost/", "http://lo\u00adcalhost/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://ip6-localhost/",
    "http://localhost.localdomain/",
    # IPv6
    "http://[::1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[0000::0001]/", "http://[::]/", "http://[::0.0.0.1]/",
    "http://[::127.0.0.1]/", "http://[::7f00:1]/", "http://[::ffff:127.0.0.1]/", "http://[::FFFF:7F00:1]/",
    "http://[0:0:0:0:0:ffff:10.0.0.1]/", "http://[::ffff:0:10.0.0.1]/", "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::10.0.0.1]/", "http://[64:ff9b:1::10.0.0.1]/", "http://[64:ff9b:1:a00:0:100::]/",
    "http://[2002:a00:1::]/", "http://[2002:7f00:1::1]/", "http://[2001:0:a00:1::1]/",
    "http://[2001:0:1:1:0:0:f5ff:fffe]/", "http://[fe80::5efe:10.0.0.1]/", "http://[2600::5efe:10.0.0.1]/",
    "http://[fe80::1%25lo]/", "http://[fe80::1%lo]/", "http://[::1%251]/", "http://[fd00::1]:80/",
    "http://user@[fd00::1]/", "http://[fd00::1]./", "http://%5B::1%5D/", "http://[::1]@93.184.216.34@[fd00::1]/",
    "http://[::ffff:0x7f.0.0.1]/", "http://[::ffff:127.1]/",
]  # fmt: skip


def names() -> dict[str, list[str]]:
    """A name for each address, and names that have others beside it or come to it by an alias."""
    records = {
        f"{number}.example": [f"{'AAAA' if ':' in address else 'A'} {address}"]
        for number, address in enumerate(ADDRESSES)
    }
    records["alias.example"] = ["CNAME 0.example."]
    records["local-alias.example"] = ["CNAME localhost.", "A 127.0.0.1"]
    records["both.example"] = ["A 10.0.0.1", "AAAA fd00::1"]
    records["many.example"] = [f"A 10.0.0.{number}" for number in range(20)]
    return records
