//go:build !unix

package pgtest

import (
	"errors"
	"os/exec"
)

func unprivileged(*exec.Cmd, string) error {
	return errors.New("no temporary cluster on this system")
}
