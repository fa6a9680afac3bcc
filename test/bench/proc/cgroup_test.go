package proc

import (
	"errors"
	"reflect"
	"testing"
)

func TestParseMounts(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       hierarchies
	}{
		{"version 1, together and apart", `
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`, hierarchies{cpu: "/sys/fs/cgroup/cpu,cpuacct", memory: "/sys/fs/cgroup/memory", unified: "/sys/fs/cgroup/unified"}},
		{"version 2", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", hierarchies{unified: "/sys/fs/cgroup"}},
		{"cpuset is not cpu", "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\nnonsense\n", hierarchies{}},
	} {
		if got := parseMounts(c.text); got != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestCgroupPlan(t *testing.T) {
	v1 := hierarchies{cpu: "/c", memory: "/m", unified: "/u"}
	for _, c := range []struct {
		name  string
		h     hierarchies
		l     Limits
		dirs  []string
		files []string
	}{
		{"version 1", v1, Limits{CPUs: 1, Memory: 1 << 30}, []string{"/c/p/n", "/m/p/n"}, []string{
			"/c/p/n/cpu.cfs_period_us=100000", "/c/p/n/cpu.cfs_quota_us=100000", "/m/p/n/memory.limit_in_bytes=1073741824",
			"/m/p/n/memory.memsw.limit_in_bytes=1073741824", "/m/p/n/memory.swappiness=0"}},
		{"processors only", v1, Limits{CPUs: 1.5}, []string{"/c/p/n"}, []string{
			"/c/p/n/cpu.cfs_period_us=100000", "/c/p/n/cpu.cfs_quota_us=150000"}},
		{"version 2", hierarchies{unified: "/u"}, Limits{CPUs: 2, Memory: 5}, []string{"/u/p/n"}, []string{
			"/u/p/cgroup.subtree_control=+cpu +memory", "/u/p/n/cpu.max=200000 100000", "/u/p/n/memory.max=5", "/u/p/n/memory.swap.max=0"}},
	} {
		g, settings, err := c.h.plan("p", "n", c.l)
		var files []string
		for _, s := range settings {
			files = append(files, s.dir+"/"+s.file+"="+s.value)
		}
		if err != nil || !reflect.DeepEqual(g.dirs, c.dirs) || !reflect.DeepEqual(files, c.files) {
			t.Errorf("%s: %v %v %v", c.name, g.dirs, files, err)
		}
	}
	for _, h := range []hierarchies{{}, {cpu: "/c"}, {memory: "/m"}} {
		if _, _, err := h.plan("", "n", Limits{CPUs: 1, Memory: 1}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v: %v", h, err)
		}
	}
}
