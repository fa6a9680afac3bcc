package proc

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// spin uses the CPU for at least d.
func spin(t *testing.T, tree *Tree, d time.Duration) {
	t.Helper()
	begin := cpu(t, tree)
	for deadline := time.Now().Add(30 * time.Second); cpu(t, tree)-begin < d; {
		for i, x := 0, 1; i < 1_000_000; i++ {
			x *= i | 1
			_ = x
		}
		if time.Now().After(deadline) {
			t.Fatalf("the CPU time of this process does not grow")
		}
	}
}

func cpu(t *testing.T, tree *Tree) time.Duration {
	t.Helper()
	d, err := tree.CPU()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTreeOfThisProcess(t *testing.T) {
	tree, err := NewTree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	spin(t, tree, 20*time.Millisecond)
	rss, peak, err := tree.Memory()
	if err != nil || rss < 1<<20 || peak < rss/2 {
		t.Errorf("memory %d, peak %d, %v", rss, peak, err)
	}
	ballast := make([]byte, 64<<20)
	for i := range ballast {
		ballast[i] = 1
	}
	_, high, err := tree.Memory()
	if err != nil || high < 64<<20 {
		t.Errorf("peak with ballast %d, %v", high, err)
	}
	if err := tree.ResetPeak(); err != nil {
		t.Skipf("the peak cannot be reset here: %v", err)
	}
	now, peak, err := tree.Memory()
	if err != nil || peak > now+(16<<20) {
		t.Errorf("after the reset: peak %d, resident %d, %v", peak, now, err)
	}
	_ = ballast[len(ballast)-1]
}

// The time of a child counts while it runs and after it ended.
func TestTreeCountsChildren(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs a shell")
	}
	// The inner shell works and waits; then it ends, and the outer one waits for it.
	cmd := exec.Command(sh, "-c", `sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo worked; read _'; echo reaped; read _`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	await := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%q, not %q", lines.Text(), want)
		}
	}
	tree, err := NewTree(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	await("worked")
	fast, err := tree.list()
	if err != nil {
		t.Fatal(err)
	}
	slow, err := tree.search()
	if err != nil || len(fast) != 2 || len(slow) != 2 || fast[0].pid != slow[0].pid || fast[1].pid != slow[1].pid || fast[1].parent != fast[0].pid {
		t.Errorf("the tree is %+v, or %+v among all processes, %v", fast, slow, err)
	}
	live := cpu(t, tree)
	if live < 5*time.Millisecond {
		t.Errorf("a working child costs %v", live)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	await("reaped")
	// Ended, it is counted in hundredths of a second.
	if ended := cpu(t, tree); ended < live-2*tick {
		t.Errorf("%v with the child, %v after it", live, ended)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // read says false at the end of its input
	if _, err := tree.CPU(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an ended process: %v", err)
	}
	if _, err := NewTree(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tree of an ended process: %v", err)
	}
}

func TestCgroupHoldsAProcess(t *testing.T) {
	g, err := NewCgroup("", "weft-bench-test-"+strings.ReplaceAll(t.Name(), "/", "-"), Limits{CPUs: 0.5, Memory: 64 << 20})
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if u, err := g.Usage(); err != nil || u.Kills != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}
