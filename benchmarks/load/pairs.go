// Which student and which course a call names: spread at random, reproducible, and for enrolling never the same
// pair twice. The loaded data set leaves a known set of pairs free (benchmarks/dataset.py); only those are drawn.

package main

// spread is the factor by which the data set shifts a student's courses against the neighbour's.
const spread = 7919

// kept is how many of the free offsets are not drawn here: they belong to pgbench and to the import.
const kept = 2

// pairSpace knows the data set: student s holds the courses 1 + (s*spread + k*stride) % courses, k < perStudent, so
// every offset that is no multiple of the stride is free. Nobody sits in the courses above `courses`: hot ones.
type pairSpace struct {
	students, courses, perStudent, stride, gaps uint64
	bits                                        uint // half the width of the permutation's domain
	keys                                        [4]uint64
	size                                        uint64
}

func newPairSpace(p *plan) *pairSpace {
	s := &pairSpace{students: p.Students, courses: p.Courses, perStudent: p.PerStudent}
	s.stride = s.courses / s.perStudent
	s.gaps = s.stride - 1 - kept
	if p.HotCourse > 0 {
		s.size = s.students
	} else {
		s.size = s.students * s.perStudent * s.gaps
	}
	for s.bits = 1; uint64(1)<<(2*s.bits) < s.size; s.bits++ {
	}
	for i := range s.keys {
		s.keys[i] = mix(p.Seed + uint64(i) + 1)
	}
	return s
}

// mix is the finalizer of splitmix64: one well-spread number for each argument.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// permute maps 0..size-1 onto itself in an order that looks random: a Feistel network, walked until it lands inside.
func (s *pairSpace) permute(x uint64) uint64 {
	mask := uint64(1)<<s.bits - 1
	for {
		left, right := x>>s.bits, x&mask
		for _, key := range s.keys {
			left, right = right, left^(mix(right^key)&mask)
		}
		if x = left<<s.bits | right; x < s.size {
			return x
		}
	}
}

// free gives the i-th pair nobody holds yet; false when all are used up.
func (s *pairSpace) free(i uint64) (student, course int64, ok bool) {
	if i >= s.size {
		return 0, 0, false
	}
	x := s.permute(i)
	student, rest := int64(1+x/(s.perStudent*s.gaps)), x%(s.perStudent*s.gaps)
	offset := (rest/s.gaps)*s.stride + 1 + rest%s.gaps
	return student, int64(1 + (uint64(student)*spread+offset)%s.courses), true
}

// hot gives the i-th student for a course that was empty; false when all sit in it.
func (s *pairSpace) hot(i uint64) (student int64, ok bool) {
	if i >= s.size {
		return 0, false
	}
	return int64(1 + s.permute(i)), true
}
