// Command platforms checks that packages are good Go for other platforms than this one:
//
//	go run ./test/platforms ./cmd/weft ./test/bench -- linux/arm64 windows/amd64
//
// It checks types only. What a build would find beside that is the compiler's and the linker's business, and takes
// minutes for each platform, most of them for SQLite.
package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	at := slices.Index(os.Args, "--")
	if at < 2 || at == len(os.Args)-1 {
		fmt.Fprintln(os.Stderr, "usage: platforms PACKAGE… -- GOOS/GOARCH…")
		os.Exit(2)
	}
	status := 0
	for _, platform := range os.Args[at+1:] {
		fmt.Println("== types for", platform)
		problems, err := check(context.Background(), ".", platform, os.Args[1:at], nil)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, p := range problems {
			fmt.Fprintln(os.Stderr, p)
			status = 1
		}
	}
	os.Exit(status)
}

// check gives what is wrong with packages of the module in dir, and with all that they import, on a platform. Overlay has
// the content of files instead of what is on disk.
func check(ctx context.Context, dir, platform string, patterns []string, overlay map[string][]byte) ([]string, error) {
	goos, goarch, ok := strings.Cut(platform, "/")
	if !ok {
		return nil, fmt.Errorf("%q is no GOOS/GOARCH", platform)
	}
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	own := func(file string) bool { return strings.HasPrefix(file, root+string(filepath.Separator)) }
	loaded, err := packages.Load(&packages.Config{Context: ctx, Dir: root, Overlay: overlay, Env: append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0"),
		Mode: packages.LoadAllSyntax | packages.NeedModule, // what is imported, too, and without the results of a compiler
		ParseFile: func(set *token.FileSet, name string, src []byte) (*ast.File, error) {
			f, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
			if f != nil && !own(name) {
				leaveBodiesOut(f)
			}
			return f, err
		}}, patterns...)
	if err != nil {
		return nil, fmt.Errorf("loading packages: %w", err)
	}
	var out []string
	packages.Visit(loaded, nil, func(p *packages.Package) {
		for _, e := range p.Errors {
			if p.Module != nil && p.Module.Main || !strings.HasSuffix(e.Msg, "and not used") { // imports of bodies that were left out
				out = append(out, fmt.Sprintf("%s: %s", platform, e))
			}
		}
	})
	return out, nil
}

// leaveBodiesOut leaves out what only the package itself has to know. The rules ask for some bodies.
func leaveBodiesOut(f *ast.File) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Type.TypeParams != nil || fn.Recv == nil && (fn.Name.Name == "init" || fn.Name.Name == "main") {
			continue
		}
		fn.Body = nil
	}
}
